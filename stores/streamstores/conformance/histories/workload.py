"""Seeded clients that call a store at the same time, and are cancelled or killed at random."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from streamstores.conformance.assertions import PATIENCE
from streamstores.conformance.harness import Harness
from streamstores.conformance.histories.operations import MUTATIONS, History
from streamstores.conformance.second_process import SecondProcessEnded
from streamstores.errors import StoreUnavailable
from streamstores.store import StreamInfo, StreamStore

__all__ = ["run_clients"]

CLIENTS = 4
CALLS = 14
"""Calls of each client. More make the search of the checker slow, not better."""
CANCELLED_SHARE = 0.1

Caller = Callable[..., Awaitable[Any]]
"""Called with the name of a method and its arguments."""


async def run_clients(
    harness: Harness,
    seed: int,
    *,
    is_second_process_used: bool,
    spoilt: AbstractContextManager[object],
) -> History:
    """The history of clients on two streams, each client with its own choices by the seed.

    They work inside `spoilt`; the stores are opened before it, and read after it.
    """
    dice = random.Random(seed)
    history = History(seed)
    ids = [harness.new_id("/a"), harness.new_id("/b")]
    stores = [await harness.open() for _ in range(3)]
    callers = {f"client {n}": _method_of(stores[n % len(stores)]) for n in range(CLIENTS)}
    process = await harness.second_process() if is_second_process_used else None
    if process is not None:
        callers["process"] = process.call
    clients = [
        # Dice of its own, or the timing of the other clients would decide its calls.
        _Client(history, name, caller, ids, random.Random(dice.random()))
        for name, caller in callers.items()
    ]
    with spoilt:
        working = [asyncio.ensure_future(client.work()) for client in clients]
        if process is not None and dice.random() < 0.5:
            await asyncio.wait(working[:1])  # somewhere in the middle of the others
            await process.kill()
        await asyncio.gather(*working)
    await _look_at_the_end(history, harness, stores, ids)
    return history


def _method_of(store: StreamStore) -> Caller:
    async def call(name: str, *args: Any, **options: Any) -> Any:
        return await getattr(store, name)(*args, **options)

    return call


async def _look_at_the_end(
    history: History, harness: Harness, stores: list[StreamStore], ids: list[str]
) -> None:
    """Read every stream through every store, so that the history pins what is there.

    A store whose network was bad may still be unavailable for some seconds, but not for ever.
    """
    if "multi_process" in stores[0].capabilities:
        stores = [*stores, await harness.open_new()]
    for number, store in enumerate(stores):
        for stream_id in ids:
            await _read_at_the_end(history, f"end {number}", store, stream_id)


async def _read_at_the_end(
    history: History, client: str, store: StreamStore, stream_id: str
) -> None:
    deadline = time.monotonic() + PATIENCE.eventual
    call = partial(store.read, stream_id, 0)
    while True:
        result = await history.record(client, "read", stream_id, {"offset": 0}, call)
        if not isinstance(result, StoreUnavailable):
            return
        if time.monotonic() > deadline:
            history.faults.append(f"{client}: the store does not become available: {result}")
            return
        await asyncio.sleep(0.05)


class _Client:
    """Makes calls one after another, mostly on what it saw last."""

    def __init__(
        self, history: History, name: str, call: Caller, ids: list[str], dice: random.Random
    ) -> None:
        self._history = history
        self._name = name
        self._call = call
        self._ids = ids
        self._dice = dice
        self._seen: dict[str, StreamInfo] = {}
        self._count = 0

    async def work(self) -> None:
        """Make `CALLS` calls, with random pauses; end early if the process of this client is
        gone."""
        for _ in range(CALLS):
            for _ in range(self._dice.randrange(4)):
                await asyncio.sleep(0)
            name, stream_id, arguments = self._choose()
            chunks = arguments.get("chunks", ())
            positional = [arguments["offset"]] if name == "read" else chunks
            options = {
                key: value
                for key, value in arguments.items()
                if key not in ("chunks", "offset")
            }
            call = partial(self._call, name, stream_id, *positional, **options)
            recorded = self._history.record(self._name, name, stream_id, arguments, call)
            result = await self._finish(recorded)
            if isinstance(result, SecondProcessEnded):
                return
            self._note(stream_id, result)

    async def _finish(self, recorded: Awaitable[Any]) -> Any:
        """The result of the call, or None if it was cancelled on the way."""
        task = asyncio.ensure_future(recorded)
        if self._dice.random() < CANCELLED_SHARE:
            turns, seconds = self._dice.randrange(12), self._dice.choice((0, 0.001, 0.01))
            for _ in range(turns):
                await asyncio.sleep(0)
            # A call that never waits has ended by now. Without this condition its history would
            # depend on the clock, and a seed would not repeat it.
            if turns and not task.done():
                await asyncio.sleep(seconds)
            task.cancel()
        # Not `await task`: the cancellation meant for the call would look like one of this
        # client.
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()

    def _note(self, stream_id: str, result: Any) -> None:
        info = getattr(result, "info", result)
        if isinstance(info, StreamInfo):
            self._seen[stream_id] = info

    def _choose(self) -> tuple[str, str, dict[str, Any]]:
        """The next call: a method, a stream and the arguments. Most are appends to a known
        stream."""
        stream_id = self._dice.choice(self._ids)
        name = self._dice.choice(
            ("create", "append", "append", "append", "append", "read", "info", "delete")
            # Deletes and reads of streams that never were would fill the history and find
            # nothing.
            if stream_id in self._seen
            else ("create", "create", "append", "read")
        )
        if name == "delete" and self._dice.random() < 0.5:
            name = "append"
        if name == "read":
            return name, stream_id, {"offset": self._dice.choice((0, 0, 1, 7, 40))}
        if name not in MUTATIONS or name == "delete":
            return name, stream_id, {}
        return name, stream_id, self._arguments(name, self._seen.get(stream_id))

    def _arguments(self, name: str, seen: StreamInfo | None) -> dict[str, Any]:
        """Chunks that no other call writes, and conditions that often hold."""
        arguments: dict[str, Any] = {
            "chunks": tuple(self._chunk() for _ in range(self._dice.choice((0, 1, 1, 2))))
        }
        if self._dice.random() < 0.2:
            by = f"{self._name} {self._count}"
            arguments["attributes"] = {self._dice.choice("abc"): by}
        if name == "create" or seen is None:
            return arguments
        kind = self._dice.choice(("plain", "plain", "at", "version", "both"))
        if kind in ("at", "both"):
            arguments["at"] = seen.tail
        if kind in ("version", "both"):
            arguments["version"] = seen.version
        if self._dice.random() < 0.15:
            arguments["state"] = self._dice.choice(("stopped", "streaming", "streaming"))
        return arguments

    def _chunk(self) -> bytes:
        self._count += 1
        # Unique in the history, so that a record that is lost, doubled or moved cannot be taken
        # for another. The two bytes at the end are text in no encoding.
        return b"<%s.%d\x00\xff>" % (self._name[-1:].encode(), self._count)
