"""The task store and the event stream of an A2A agent, on any store.

Written against a2a-sdk 1.3. It needs the extra `a2a`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from streamstores import logs
from streamstores.changes import is_namesake
from streamstores.errors import (
    Conflict,
    InvalidRequest,
    StreamClosed,
    StreamNotFound,
    StreamStoreError,
)
from streamstores.limits import check_prefix, check_seconds
from streamstores.store import StreamInfo, StreamStore

try:
    from a2a.server.agent_execution import AgentExecutor
    from a2a.server.cluster import (
        ConcurrentTaskModificationError,
        StoredTask,
        TaskVersion,
        VersionedTaskStore,
    )
    from a2a.server.context import ServerCallContext
    from a2a.server.owner_resolver import OwnerResolver, resolve_user_scope
    from a2a.server.request_handlers import DefaultRequestHandler
    from a2a.types.a2a_pb2 import (
        AgentCard,
        ListTasksRequest,
        ListTasksResponse,
        Task,
        TaskState,
    )
    from a2a.utils.errors import UnsupportedOperationError
except ModuleNotFoundError as _missing_module:  # pragma: no cover
    raise ImportError(
        f"streamstores.integrations.a2a needs {_missing_module.name}: "
        'pip install "streamstores[a2a]"',
        name=_missing_module.name,
    ) from _missing_module

from streamstores.integrations._a2a_entries import TERMINAL_STATES, AgentEvent
from streamstores.integrations._a2a_event_stream import A2AEventStream
from streamstores.integrations._a2a_handler import ExactRequestHandler
from streamstores.integrations._a2a_log import TaskLogs, TaskSummary, number_of, version_of
from streamstores.integrations._a2a_page import page_of

__all__ = ["A2AEventStream", "A2ATaskStore"]

_SILENT_HEARTBEATS = 3
_CANCEL_ATTEMPTS = 1000

_QUIET, _LONGEST_BURST = 0.05, 0.5  # seconds

_log = logging.getLogger("streamstores.integrations.a2a")


class _HeldTask:
    """A task that this process runs: its log as last saved, and the task for the next delta.

    What it knows may be outdated, which the version of the next append finds out.
    """

    __slots__ = ("info", "saved_at", "task")

    def __init__(self, info: StreamInfo, task: Task) -> None:
        self.info = info
        self.task = task
        self.saved_at = asyncio.get_running_loop().time()


class A2ATaskStore(VersionedTaskStore):
    """The tasks of an agent that runs in any number of processes.

        tasks = A2ATaskStore(store)
        handler = tasks.request_handler(MyAgentExecutor(), agent_card)

    A task is one stream, to which each save appends the event and what it changed, in one
    step: no process sees a state without its event. A version is the place in that stream, so
    a save is a compare-and-set of the store, and a subscriber goes on where its copy of the
    task ends.

    A process that dies leaves no task running: a task that works, and gives no sign of life
    for three `heartbeat` seconds, fails with a message that says so, as soon as a client
    subscribes to it or asks for it twice. `aclose` fails the tasks of this process at once.

    - `prefix`: how the streams of tasks begin. A store may hold the tasks of several agents.
    - `ttl`: seconds that a task is kept after its last change; None keeps it until `delete`.
    - `heartbeat`: seconds between the signs of life of a silent task, the same in all
      processes of a store. None gives none and never takes a process for dead.
    - `retry_for`: seconds for which a save is tried again while the backend is away.
    - `owner_resolver`: the owner of a call. Tasks of others are not found.

    One object belongs to one event loop. `async with` or `aclose` ends it; the store stays
    open.
    """

    def __init__(
        self,
        store: StreamStore,
        *,
        prefix: str = "a2a-task/",
        ttl: float | None = None,
        heartbeat: float | None = 5.0,
        retry_for: float = 30.0,
        owner_resolver: OwnerResolver = resolve_user_scope,
    ) -> None:
        check_prefix(prefix)
        for value, name in ((ttl, "ttl"), (heartbeat, "heartbeat"), (retry_for, "retry_for")):
            if value is not None:
                check_seconds(value, name)
        if heartbeat == 0:
            raise InvalidRequest("heartbeat is seconds above 0, or None")
        self._logs = TaskLogs(store, prefix, ttl, retry_for)
        self._owner_of = owner_resolver
        self._heartbeat = heartbeat
        self._held: dict[str, _HeldTask] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._beating: asyncio.Task[None] | None = None
        silence = None if heartbeat is None else _SILENT_HEARTBEATS * heartbeat
        self.event_stream: A2AEventStream = A2AEventStream(self._logs, silence)
        """The events of these tasks, for the handler."""

    def request_handler(
        self, agent_executor: AgentExecutor, agent_card: AgentCard, **options: Any
    ) -> DefaultRequestHandler:
        """The SDK's request handler with these tasks; the options are those of its own.

        Unlike `DefaultRequestHandler(task_store=tasks, event_stream=tasks.event_stream)`, it
        doubles no event for a client that subscribes in the process of the agent.
        """
        return ExactRequestHandler(
            agent_executor, self, agent_card, event_stream=self.event_stream, **options
        )

    # --- the interface of the SDK

    async def save(
        self,
        task: Task,
        *,
        event: AgentEvent | None = None,
        prev: Task | None = None,
        prev_version: TaskVersion,
        context: ServerCallContext,
    ) -> TaskVersion:
        """Store `task` and `event` in one step, if the stored task still is `prev_version`.

        Returns the new version. Raises `ConcurrentTaskModificationError` otherwise, or if the
        task belongs to another owner. `TaskVersion.MISSING` is the first write. A write of
        `CANCELED` replaces any version of a task that has not ended.

        It is applied once or not at all, also when the backend's answer is lost. Costs one
        request; a first save after another process's costs two.
        """
        del prev  # the SDK passes the object that it has changed in place
        owner = self._owner_of(context)
        if task.status.state == TaskState.TASK_STATE_CANCELED:
            return await self._save_canceled(task, event, owner)
        if prev_version.is_missing:
            return await self._save_first(task, event, owner)
        return await self._save_next(task, event, owner, number_of(prev_version))

    async def get(self, task_id: str, context: ServerCallContext) -> StoredTask | None:
        """The task and its version; None if there is none, or if it is another owner's.

        Costs two requests, whatever the length of its history.
        """
        loaded = await self._logs.load(task_id, self._owner_of(context))
        if loaded is None:
            return None
        if loaded.summary.is_running:
            self._watch(task_id, loaded.info)
        return StoredTask(loaded.task, version_of(loaded.info))

    async def list(
        self, params: ListTasksRequest, context: ServerCallContext
    ) -> ListTasksResponse:
        """The tasks of the caller, newest first, as `params` filters and pages them.

        Costs a listing of all tasks under `prefix`, of all owners, and two requests for each
        task of the page. Raises `UnsupportedOperationError` if the store cannot list.
        """
        if "list" not in self._logs.store.capabilities:
            raise UnsupportedOperationError("the store of this agent cannot list tasks")
        owner = self._owner_of(context)
        prefix = self._logs.prefix
        found: dict[str, TaskSummary] = {}
        async for info in self._logs.store.list(prefix):
            summary = TaskSummary.from_attributes(info.attributes)
            if summary is not None and summary.owner == owner:
                found[info.id[len(prefix) :]] = summary
        page = page_of(found, params)
        loaded = [await self._logs.load(task_id, owner) for task_id in page.task_ids]
        return ListTasksResponse(
            tasks=[each.task for each in loaded if each is not None],
            total_size=page.total_size,
            page_size=page.page_size,
            next_page_token=page.next_page_token,
        )

    async def delete(self, task_id: str, context: ServerCallContext) -> None:
        """Delete the task, if the caller has it. Its subscribers get `TaskNotFoundError`."""
        found = await self._logs.find(task_id)
        if found is None or found[1].owner != self._owner_of(context):
            return
        self._held.pop(task_id, None)
        with suppress(StreamNotFound):
            await self._logs.store.delete(found[0].id)

    # --- the end

    async def aclose(self) -> None:
        """Fail the tasks that run in this process, so that no client waits for them.

        Close the request handler first, which ends their agents. Idempotent.
        """
        background = [*self._watches.values()]
        if self._beating is not None:
            background.append(self._beating)
        for each in background:
            each.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        held, self._held, self._beating = self._held, {}, None
        for task in held.values():
            with suppress(StreamStoreError):
                await self._logs.fail_lost(task.info)

    async def __aenter__(self) -> A2ATaskStore:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # --- saving

    async def _save_first(
        self, task: Task, event: AgentEvent | None, owner: str
    ) -> TaskVersion:
        info = await self._logs.create(task, event, owner)
        if info is None:
            raise ConcurrentTaskModificationError(task.id)
        return self._saved(task, None, info)

    async def _save_next(
        self, task: Task, event: AgentEvent | None, owner: str, prev: int
    ) -> TaskVersion:
        at = await self._log_at(task.id, owner, prev)
        if at is not None:
            info, known = at
            outcome = await self._logs.append(info, task, event, known=known)
            if isinstance(outcome, StreamInfo):
                return self._saved(task, known, outcome)
        await self._until_quiet(task.id)
        raise ConcurrentTaskModificationError(task.id)

    async def _until_quiet(self, task_id: str) -> None:
        """Wait until the winner of a race has done its other saves, half a second at most.

        The SDK reads the task again and repeats a lost save once. Most saves come in twos, a
        message and a status: without this pause the repetition would lose to the second.
        """
        deadline = asyncio.get_running_loop().time() + _LONGEST_BURST
        found = await self._logs.find(task_id)
        while found is not None and found[1].state not in TERMINAL_STATES:
            version = found[0].version
            with suppress(StreamNotFound):
                await self._logs.store.wait(found[0].id, version=version, timeout=_QUIET)
            found = await self._logs.find(task_id)
            is_quiet = found is not None and found[0].version == version
            if is_quiet or asyncio.get_running_loop().time() > deadline:
                break

    async def _save_canceled(
        self, task: Task, event: AgentEvent | None, owner: str
    ) -> TaskVersion:
        """Save over whatever version the task is at, as long as it has not ended."""
        self._held.pop(task.id, None)
        found = await self._logs.find(task.id)
        info = None if found is None else found[0]
        for _ in range(_CANCEL_ATTEMPTS):
            summary = None if info is None else TaskSummary.from_attributes(info.attributes)
            if info is None or summary is None or summary.owner != owner:
                break
            if summary.state in TERMINAL_STATES:
                break
            outcome = await self._logs.append(info, task, event)
            if isinstance(outcome, StreamInfo):
                return version_of(outcome)
            info = None if outcome is None else outcome.info
        raise ConcurrentTaskModificationError(task.id)

    async def _log_at(
        self, task_id: str, owner: str, prev: int
    ) -> tuple[StreamInfo, Task | None] | None:
        """The log at the version `prev`, and the task there if this process knows it; None if
        the log is at another version."""
        # Taken away, because the save changes it: after an error it must not be used again.
        held = self._held.pop(task_id, None)
        if held is not None and number_of(version_of(held.info)) == prev:
            info, known = held.info, held.task
        else:
            found = await self._logs.find(task_id)
            if found is None or number_of(version_of(found[0])) != prev:
                return None
            info, known = found[0], None
        summary = TaskSummary.from_attributes(info.attributes)
        return None if summary is None or summary.owner != owner else (info, known)

    def _saved(self, task: Task, known: Task | None, info: StreamInfo) -> TaskVersion:
        """Hold the task while it runs here; return its version."""
        summary = TaskSummary.from_attributes(info.attributes)
        if summary is not None and summary.is_running:
            if known is None:
                known = Task()
                known.CopyFrom(task)
            self._held[task.id] = _HeldTask(info, known)
            if self._heartbeat is not None and (self._beating is None or self._beating.done()):
                beating = self._beat_all(self._heartbeat)
                self._beating = asyncio.create_task(beating, name="streamstores: a2a tasks")
        return version_of(info)

    # --- signs of life

    async def _beat_all(self, interval: float) -> None:
        """Give the signs of life of the silent tasks of this process, while it has any."""
        clock = asyncio.get_running_loop().time
        while self._held:
            await asyncio.sleep(interval)
            silent = [
                (task_id, held)
                for task_id, held in self._held.items()
                if clock() - held.saved_at >= interval / 2
            ]
            await asyncio.gather(*(self._beat(*each) for each in silent))

    async def _beat(self, task_id: str, held: _HeldTask) -> None:
        """Give one sign of life, or let go of a task that another process has saved."""
        try:
            held.info = await self._logs.store.append(held.info.id, version=held.info.version)
        except Conflict as exc:
            # The task was saved elsewhere, or is being saved here.
            if exc.info.tail == held.info.tail and not is_namesake(held.info, exc.info):
                held.info = exc.info
            else:
                self._let_go(task_id, held)
        except (StreamNotFound, StreamClosed):
            self._let_go(task_id, held)
        except StreamStoreError as exc:
            _log.warning(
                "a task gives no sign of life: %s",
                logs.reason(exc),
                extra=logs.event("a2a.silent", held.info.id),
            )

    def _let_go(self, task_id: str, held: _HeldTask) -> None:
        if self._held.get(task_id) is held:
            del self._held[task_id]

    def _watch(self, task_id: str, info: StreamInfo) -> None:
        """Fail the task if nothing is heard of it: a client that only polls has no subscriber
        that would notice."""
        if self._heartbeat is None or task_id in self._held or task_id in self._watches:
            return
        watching = self._fail_if_silent(info, _SILENT_HEARTBEATS * self._heartbeat)
        watch = asyncio.create_task(watching, name=f"streamstores: watch {task_id}")
        self._watches[task_id] = watch
        watch.add_done_callback(lambda _: self._watches.pop(task_id, None))

    async def _fail_if_silent(self, info: StreamInfo, seconds: float) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        with suppress(StreamStoreError):
            seen = info
            while seen.version == info.version:
                left = deadline - clock()
                if left <= 0:
                    await self._logs.fail_lost(seen)
                    return
                seen = await self._logs.store.wait(info.id, version=info.version, timeout=left)
