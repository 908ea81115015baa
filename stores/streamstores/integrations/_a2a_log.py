"""The log of an A2A task: one stream, whose entries are the task's events and states."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, NamedTuple

from a2a.server.cluster import TaskVersion
from a2a.types.a2a_pb2 import (
    Message,
    Part,
    Role,
    Task,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)

from streamstores._writer.append_chain import AppendChain, Ending
from streamstores._writer.attempts import Attempts
from streamstores.changes import is_namesake
from streamstores.errors import (
    Conflict,
    CorruptData,
    InvalidRequest,
    OffsetOutOfRange,
    OutcomeUnknown,
    StoreUnavailable,
    StreamClosed,
    StreamExists,
    StreamNotFound,
)
from streamstores.integrations._a2a_entries import (
    INTERRUPTED_STATES,
    TERMINAL_STATES,
    AgentEvent,
    EntryReader,
    advance_task,
    encode_entry,
)
from streamstores.store import StreamInfo, StreamStore

__all__ = ["LoadedTask", "TaskLogs", "TaskSummary", "number_of", "version_of"]

_BASE = "a2a-base"
_OWNER = "a2a-owner"
_CONTEXT = "a2a-context"
_STATE = "a2a-state"
_UPDATED = "a2a-updated"
_SNAPSHOT = "a2a-snapshot"

_READ_BYTES = 1_048_576

_SNAPSHOT_BYTES = 65_536
"""How much of a log, beyond twice the size of its task, is read at most to know the task."""

_LOST = "The process that ran this task has ended."

_LOAD_ATTEMPTS = 5  # each beyond the first means that the task was deleted and begun anew


class TaskSummary(NamedTuple):
    """What the attributes of a log tell about its task, so that a listing reads no log."""

    base: int
    """Random for each log. With the tail it is the task's version, so that a version of a
    deleted task never matches a later task of that id."""
    owner: str
    context_id: str
    state: int
    updated_ns: int | None
    """The timestamp of the status, in nanoseconds since 1970."""
    snapshot: int
    """The offset of the last entry that holds the whole task."""

    @classmethod
    def of(cls, task: Task, base: int, owner: str, snapshot: int) -> TaskSummary:
        status = task.status
        at = status.timestamp.ToNanoseconds() if status.HasField("timestamp") else None
        return cls(base, owner, task.context_id, int(status.state), at, snapshot)

    @property
    def is_running(self) -> bool:
        """Whether a process is to be at work on the task, and gives signs of life."""
        return self.state not in TERMINAL_STATES | INTERRUPTED_STATES

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, str]) -> TaskSummary | None:
        """None if the stream is no log of a task."""
        if _BASE not in attributes:
            return None
        updated = attributes[_UPDATED]
        return cls(
            int(attributes[_BASE]),
            attributes[_OWNER],
            attributes[_CONTEXT],
            int(attributes[_STATE]),
            int(updated) if updated else None,
            int(attributes[_SNAPSHOT]),
        )

    def to_attributes(self) -> dict[str, str]:
        return {
            _BASE: str(self.base),
            _OWNER: self.owner,
            _CONTEXT: self.context_id,
            _STATE: str(self.state),
            _UPDATED: "" if self.updated_ns is None else str(self.updated_ns),
            _SNAPSHOT: str(self.snapshot),
        }


class LoadedTask(NamedTuple):
    """A task as its log has it, and the log at that moment."""

    task: Task
    summary: TaskSummary
    info: StreamInfo


class TaskLogs:
    """The logs of all tasks in a store."""

    def __init__(
        self, store: StreamStore, prefix: str, ttl: float | None, retry_for: float
    ) -> None:
        self.store = store
        self.prefix = prefix
        self._ttl = ttl
        self._retry_for = retry_for

    def stream_id(self, task_id: str) -> str:
        return self.prefix + task_id

    async def find(self, task_id: str) -> tuple[StreamInfo, TaskSummary] | None:
        """The log of a task now; None if there is none, as for an id that cannot be one."""
        try:
            info = await self.store.info(self.stream_id(task_id))
        except (StreamNotFound, InvalidRequest):
            return None
        summary = TaskSummary.from_attributes(info.attributes)
        return None if summary is None else (info, summary)

    async def load(self, task_id: str, owner: str | None = None) -> LoadedTask | None:
        """The task now, if it is of `owner`; None if there is none.

        Costs two requests, and more only if the task has more than a megabyte.
        """
        for _ in range(_LOAD_ATTEMPTS):
            found = await self.find(task_id)
            if found is None or owner not in (None, found[1].owner):
                return None
            with suppress(StreamNotFound, OffsetOutOfRange):
                loaded = await self._read(*found)
                if loaded is not None:
                    return loaded
        raise CorruptData(f"the log of A2A task {task_id!r} does not hold what it says")

    async def _read(self, info: StreamInfo, summary: TaskSummary) -> LoadedTask | None:
        """The task from its last whole copy on; None if another task took the id meanwhile."""
        reader, task, offset = EntryReader(), Task(), summary.snapshot
        while True:
            page = await self.store.read(info.id, offset, max_bytes=_READ_BYTES)
            if is_namesake(info, page.info):
                return None
            for entry in reader.entries_of(page.records):
                if entry.task is not None:
                    task = entry.task
                else:
                    advance_task(task, entry.event)
            info, offset = page.info, page.next_offset
            if offset == info.tail:
                latest = TaskSummary.from_attributes(info.attributes)
                return None if latest is None else LoadedTask(task, latest, info)

    async def create(
        self, task: Task, event: AgentEvent | None, owner: str
    ) -> StreamInfo | None:
        """Begin the log of a task; None if the id is in use.

        An unknown outcome is settled by repetition: one creation of an id succeeds, and `base`
        tells whose it was.
        """
        base = secrets.randbits(52) + 1
        attributes = TaskSummary.of(task, base, owner, 0).to_attributes()
        entry = encode_entry(int(task.status.state), event, _unless_told(task, event))
        attempts, doubt = Attempts(self._retry_for), None
        while True:
            try:
                return await self.store.create(
                    self.stream_id(task.id),
                    *self._chunks(entry),
                    ttl=self._ttl,
                    attributes=attributes,
                )
            except StreamExists as exc:
                if doubt is None or exc.info.attributes.get(_BASE) != str(base):
                    return None
                return await self._confirmed(exc.info)
            except StoreUnavailable as exc:
                await attempts.pause(doubt or exc)
            except OutcomeUnknown as exc:
                doubt = exc
                await attempts.pause(exc)

    async def append(
        self,
        info: StreamInfo,
        task: Task,
        event: AgentEvent | None,
        *,
        known: Task | None = None,
    ) -> StreamInfo | Conflict | None:
        """Add an entry, if the log is still as `info` says or has only heard heartbeats.

        `known` is the task before it. It becomes the task after it, unless something is raised
        or the log has changed; then it must not be used again.

        Returns the log after it; the conflict, whose `info` is the log as it is, if it has
        changed; None if it is gone. The entry is added once or not at all, also if an answer
        of the backend is lost.
        """
        summary = TaskSummary.from_attributes(info.attributes)
        if summary is None:
            return None
        entry, snapshot = _next_entry(info.tail - summary.snapshot, task, event, known)
        if snapshot:
            summary = summary._replace(snapshot=info.tail)
        changed = TaskSummary.of(task, summary.base, summary.owner, summary.snapshot)
        attributes = changed.to_attributes()
        ending = Ending(attributes=None if attributes == dict(info.attributes) else attributes)
        chunks = tuple(self._chunks(entry))
        while True:
            chain = AppendChain(self.store, info.id, info, self._retry_for)
            try:
                await chain.append(chunks, ending)
                return chain.info
            except Conflict as exc:
                if exc.info.tail != info.tail or is_namesake(info, exc.info):
                    return exc
                info = exc.info
            except (StreamNotFound, StreamClosed):
                return None

    async def fail_lost(self, info: StreamInfo) -> None:
        """End the task whose log nothing has changed since `info`; its process is gone."""
        summary = TaskSummary.from_attributes(info.attributes)
        if summary is None or not summary.is_running:
            return
        loaded = await self.load(info.id[len(self.prefix) :], summary.owner)
        if loaded is None or loaded.info.version != info.version:
            return
        task = loaded.task
        event = _lost_event(task)
        advance_task(task, event)
        # A process that is alive after all, and saves or gives a sign of life now, wins.
        chain = AppendChain(self.store, info.id, loaded.info, self._retry_for)
        changed = TaskSummary.of(task, summary.base, summary.owner, info.tail)
        entry = encode_entry(int(task.status.state), event, task)
        with suppress(Conflict, StreamNotFound, StreamClosed):
            await chain.append(
                tuple(self._chunks(entry)), Ending(attributes=changed.to_attributes())
            )

    async def _confirmed(self, info: StreamInfo) -> StreamInfo:
        """The log, once the store has acknowledged it under its own durability."""
        chain = AppendChain(self.store, info.id, info, self._retry_for)
        with suppress(Conflict, StreamNotFound, StreamClosed):
            await chain.confirm()
        return chain.info or info

    def _chunks(self, entry: bytes) -> list[bytes]:
        size = self.store.limits.record_bytes
        return [entry[start : start + size] for start in range(0, len(entry), size)]


def _next_entry(
    since_snapshot: int, task: Task, event: AgentEvent | None, known: Task | None
) -> tuple[bytes, bool]:
    """The entry that leads to `task`, and whether it tells the whole task.

    `since_snapshot` is how many bytes have to be read now to know the task.
    """
    told = _unless_told(task, event)
    if known is not None and told is not None and advance_task(known, event) and known == task:
        if since_snapshot <= 2 * task.ByteSize() + _SNAPSHOT_BYTES:
            return encode_entry(int(task.status.state), event, None), False
    elif known is not None:
        known.CopyFrom(task)
    return encode_entry(int(task.status.state), event, told), True


def _unless_told(task: Task, event: AgentEvent | None) -> Task | None:
    """The task, unless the event is the same task."""
    return None if isinstance(event, Task) and event == task else task


def _lost_event(task: Task) -> TaskStatusUpdateEvent:
    message = Message(
        message_id=secrets.token_hex(16),
        role=Role.ROLE_AGENT,
        task_id=task.id,
        context_id=task.context_id,
        parts=[Part(text=_LOST)],
    )
    status = TaskStatus(state=TaskState.TASK_STATE_FAILED, message=message)
    status.timestamp.FromDatetime(datetime.now(timezone.utc))
    return TaskStatusUpdateEvent(task_id=task.id, context_id=task.context_id, status=status)


def version_of(info: StreamInfo) -> TaskVersion:
    """The version of the task whose log this is."""
    summary = TaskSummary.from_attributes(info.attributes)
    return TaskVersion.MISSING if summary is None else TaskVersion(summary.base + info.tail)


def number_of(version: TaskVersion) -> int:
    """What `version_of` put into it. Raises `TypeError` for a version of another store."""
    value: Any = version._value  # pyright: ignore[reportPrivateUsage]
    if not isinstance(value, int):
        raise TypeError(f"not a version of this store, which has integer versions: {version!r}")
    return value
