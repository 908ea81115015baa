"""How the changes of an A2A task are stored as bytes, and read again. No I/O.

The log of a task is a stream of entries, one for each save. An entry holds the event, if the
save had one, and the task after it, if the event alone does not tell: so a long answer that
arrives in small pieces is not stored anew with each of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Any, NamedTuple, Union

from a2a.types.a2a_pb2 import (
    Message,
    StreamResponse,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatusUpdateEvent,
)
from a2a.utils.proto_utils import to_stream_response

from streamstores.errors import CorruptData
from streamstores.values import Record

__all__ = [
    "INTERRUPTED_STATES",
    "TERMINAL_STATES",
    "AgentEvent",
    "EntryReader",
    "TaskEntry",
    "advance_task",
    "encode_entry",
]

AgentEvent = Union[Message, Task, TaskStatusUpdateEvent, TaskArtifactUpdateEvent]

TERMINAL_STATES: frozenset[int] = frozenset(
    {
        TaskState.TASK_STATE_COMPLETED,
        TaskState.TASK_STATE_CANCELED,
        TaskState.TASK_STATE_FAILED,
        TaskState.TASK_STATE_REJECTED,
    }
)
INTERRUPTED_STATES: frozenset[int] = frozenset(
    {TaskState.TASK_STATE_INPUT_REQUIRED, TaskState.TASK_STATE_AUTH_REQUIRED}
)

# The state, a nonce, and the sizes of the event and of the task. The nonce tells the entry of
# one process from an equal entry of another, when an append had no answer.
_HEADER = Struct(">B8sII")
_PAYLOADS = ("task", "message", "status_update", "artifact_update")


class TaskEntry(NamedTuple):
    """One save, as it was read from the log."""

    end: int
    """The offset after it."""
    state: int
    """The state of the task after it."""
    event: AgentEvent | None
    task: Task | None
    """The task after it; None if it follows from the event and the task before."""


def encode_entry(state: int, event: AgentEvent | None, task: Task | None) -> bytes:
    """The bytes of an entry."""
    stored_event = b"" if event is None else to_stream_response(event).SerializeToString()
    stored_task = b"" if task is None else task.SerializeToString()
    header = _HEADER.pack(state, secrets.token_bytes(8), len(stored_event), len(stored_task))
    return header + stored_event + stored_task


class EntryReader:
    """The entries of a log, from an offset at which one begins."""

    def __init__(self) -> None:
        self._open = bytearray()  # an entry that is not whole yet

    def entries_of(self, records: Iterable[Record]) -> Iterator[TaskEntry]:
        """The entries that the next records complete. Raises `CorruptData`."""
        for offset, data in records:
            self._open += data
            end = offset + len(data)
            while (entry := self._next_entry(end - len(self._open))) is not None:
                yield entry

    def _next_entry(self, start: int) -> TaskEntry | None:
        if len(self._open) < _HEADER.size:
            return None
        state, _, event_size, task_size = _HEADER.unpack_from(self._open)
        event_end = _HEADER.size + event_size
        size = event_end + task_size
        if len(self._open) < size:
            return None
        event = bytes(self._open[_HEADER.size : event_end])
        task = bytes(self._open[event_end:size])
        del self._open[:size]
        return TaskEntry(start + size, state, _decoded_event(event), _decoded_task(task))


def advance_task(task: Task, event: AgentEvent | None) -> bool:
    """Change `task` as `event` says; False, and perhaps half changed, if it does not say how.

    What an entry without a task means is fixed here, and not by the SDK that is installed,
    because another version of it may read the log.
    """
    if isinstance(event, Task):
        task.CopyFrom(event)
        return True
    if isinstance(event, TaskStatusUpdateEvent):
        if task.status.HasField("message"):
            task.history.append(task.status.message)
        if event.HasField("metadata"):
            task.metadata.MergeFrom(event.metadata)
        task.status.CopyFrom(event.status)
        return True
    if isinstance(event, TaskArtifactUpdateEvent):
        return _advance_artifacts(task, event)
    return False


def _advance_artifacts(task: Task, event: TaskArtifactUpdateEvent) -> bool:
    """Add or replace an artifact, or extend it by the event's parts; False if it is missing."""
    wanted = event.artifact.artifact_id
    known = next((each for each in task.artifacts if each.artifact_id == wanted), None)
    if event.append:
        if known is None:
            return False
        known.parts.extend(event.artifact.parts)
        if event.artifact.HasField("metadata"):
            known.metadata.MergeFrom(event.artifact.metadata)
    elif known is None:
        task.artifacts.append(event.artifact)
    else:
        known.CopyFrom(event.artifact)
    return True


def _decoded_event(data: bytes) -> AgentEvent | None:
    if not data:
        return None
    response = StreamResponse()
    _parse(response, data)
    for name in _PAYLOADS:
        if response.HasField(name):
            event: AgentEvent = getattr(response, name)
            return event
    raise CorruptData("an event in the log of an A2A task is of no known kind")


def _decoded_task(data: bytes) -> Task | None:
    if not data:
        return None
    task = Task()
    _parse(task, data)
    return task


def _parse(message: Any, data: bytes) -> None:
    try:
        message.ParseFromString(data)
    except Exception as exc:  # the runtimes of protobuf raise errors of their own
        raise CorruptData("the log of an A2A task holds what is no A2A message") from exc
