"""The harness of a check: stores on one backend, unused stream ids, and the cleanup."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from streamstores.conformance.assertions import PATIENCE, within
from streamstores.conformance.second_process import SecondProcess
from streamstores.conformance.stacks import task_stack
from streamstores.store import StreamStore

__all__ = ["Harness", "NotOffered", "Target", "close_loop", "run_in_own_loop", "target_of"]

T = TypeVar("T")

SECOND_PROCESS = "second_process"
"""A check that talks to a real second process needs this; no store declares it."""

_DELETE_SECONDS = 30.0


class NotOffered(Exception):
    """The store does not declare what the check needs; the message names it."""


@dataclass(frozen=True)
class Target:
    """The stores under test.

    `make_store()` returns a store that is not entered yet, or an async context manager that
    yields a store. Each call returns another object on the same backend.

    `second_process` tells a real second process how to open the same backend: a store URL, or
    the `"module:callable"` of a function like `make_store` that the process can import.
    Without it, the checks that need a second process are not offered.
    """

    make_store: Callable[[], Any]
    second_process: str | None = None


def target_of(spec: str) -> Target:
    """The target that a store URL or `"module:callable"` names.

    Raises `ValueError` or `TypeError` if the text is neither, and whatever the import raises.
    """
    if "://" in spec:
        # Loaded by name, because `store_urls` is a layer above this package.
        open_store = load_factory("streamstores:open_store")
        return Target(partial(open_store, spec), spec)
    return Target(load_factory(spec), spec)


def load_factory(path: str) -> Callable[..., Any]:
    """The callable at `"module:name"`."""
    module, _, name = path.partition(":")
    if not module or not name:
        raise ValueError(f"{path!r} is neither a store URL nor module:callable")
    factory: Any = import_module(module)
    for part in name.split("."):
        factory = getattr(factory, part)
    if not callable(factory):
        raise TypeError(f"{path} is not callable")
    return factory  # type: ignore[no-any-return]  # it came in by name


class Harness:
    """The stores, ids and tasks of a check; an async context manager that cleans up.

    On exit it cancels the tasks it started, deletes the streams whose ids it handed out and
    closes the stores it opened, so a check may run against a backend that is in use.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._stores: list[StreamStore] = []
        self._ids: list[str] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._exits = AsyncExitStack()
        self._token = secrets.token_hex(6)

    async def open(self) -> StreamStore:
        """A store on the backend.

        A new object at each call if the store declares `"multi_process"`, otherwise always the
        same object.
        """
        # Two objects on such a backend would be two stores, and every check of two clients
        # would fail.
        if self._stores and "multi_process" not in self._stores[0].capabilities:
            return self._stores[0]
        return await self.open_new()

    async def open_new(self) -> StreamStore:
        """A new store object on the same backend, whatever the store declares."""
        store: StreamStore = await self._exits.enter_async_context(self._target.make_store())
        self._stores.append(store)
        return store

    async def second_process(self) -> SecondProcess:
        """Start another process that opens its own store on the same backend."""
        if self._target.second_process is None:
            raise NotOffered("no second_process= was given")
        process = SecondProcess(self._target.second_process)
        return await self._exits.enter_async_context(process)

    def new_id(self, suffix: str = "") -> str:
        """An unused id, whose stream is deleted after the check."""
        stream_id = f"{self.prefix}{len(self._ids)}{suffix}"
        self._ids.append(stream_id)
        return stream_id

    def own(self, stream_id: str) -> str:
        """Register an id that the check made itself, so that its stream is deleted too."""
        self._ids.append(stream_id)
        return stream_id

    @property
    def prefix(self) -> str:
        """The prefix of all ids of this check."""
        return f"conformance/{self._token}/"

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` beside the check; whatever still runs when the check ends is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        return task

    async def require(self, needs: frozenset[str]) -> None:
        """Raise `NotOffered` unless the store declares everything in `needs`."""
        store = await self.open()
        missing = sorted(needs - store.capabilities - {SECOND_PROCESS})
        if missing:
            raise NotOffered(f"the store does not declare {', '.join(missing)}")
        if SECOND_PROCESS in needs and self._target.second_process is None:
            raise NotOffered("no second_process= was given")

    async def __aenter__(self) -> Harness:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Clean up. Each step is bounded, so a store that hangs cannot hang the suite.

        Raises `AssertionError` if a call ignores its cancellation or a store does not close.
        """
        try:
            await self._cancel_tasks()
            await self._delete_streams()
        finally:
            # Longer than a second process may take to end before it is killed.
            await within(2 * PATIENCE.eventual, self._exits.aclose(), "closing the stores")

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, ignoring = await asyncio.wait(self._tasks, timeout=PATIENCE.eventual)
            for task in ignoring:
                place = " ".join(task_stack(task)[-1:])
                raise AssertionError(f"a call ignored its cancellation and is still at {place}")

    async def _delete_streams(self) -> None:
        """Delete the streams of the check, ignoring errors: the check has ended by now."""
        if not self._ids or "durable" not in self._stores[0].capabilities:
            return
        with suppress(Exception, AssertionError):
            await within(_DELETE_SECONDS, self._delete_each(), "deleting the streams")

    async def _delete_each(self) -> None:
        # A new store, because the check may have closed the others.
        store = await self.open_new()
        # All at once: a check may own hundreds of streams, and a store of objects takes 50 ms
        # for each.
        deletes = [store.delete(stream_id) for stream_id in self._ids]
        await asyncio.gather(*deletes, return_exceptions=True)


def run_in_own_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end in a new event loop.

    The current loop of the thread stays as it is, because a test framework may rely on it.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        close_loop(loop)


def close_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks that still run in the loop, and close it.

    Tasks that ignore the cancellation and threads that do not end are left behind after
    `PATIENCE.eventual` seconds.
    """
    try:
        # A task that is still pending when its loop goes away is reported by asyncio, in the
        # middle of another check.
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=PATIENCE.eventual))
        closing = asyncio.wait(
            [loop.create_task(loop.shutdown_asyncgens())], timeout=PATIENCE.eventual
        )
        loop.run_until_complete(closing)
    finally:
        # Closing the loop does not wait for the threads of its executor; a thread that is
        # blocked in a store's call would otherwise hang the suite.
        loop.close()
