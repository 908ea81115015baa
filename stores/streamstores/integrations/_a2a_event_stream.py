"""The events of A2A tasks, read from their logs."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from a2a.server.cluster import TaskEventStream, TaskVersion, VersionedEvent
from a2a.utils.errors import TaskNotFoundError

from streamstores.changes import is_namesake
from streamstores.errors import ProducerLost, StreamNotFound
from streamstores.follow import follow
from streamstores.integrations._a2a_entries import TERMINAL_STATES, EntryReader
from streamstores.integrations._a2a_log import TaskLogs, number_of
from streamstores.store import Record, StreamInfo

__all__ = ["A2AEventStream"]


class A2AEventStream(TaskEventStream):
    """The events of the tasks of an `A2ATaskStore`, in whichever process they run.

    It is `tasks.event_stream`, and reads what the saves have stored.
    """

    def __init__(self, logs: TaskLogs, silent_seconds: float | None) -> None:
        self._logs = logs
        self._timeout = silent_seconds

    async def publish(self, task_id: str, event: VersionedEvent) -> None:
        """Nothing is left to do: the save that returned `event.version` has stored the event,
        in the same step as the task, and has told the subscribers."""

    async def subscribe(
        self, task_id: str, *, after: TaskVersion
    ) -> AsyncGenerator[VersionedEvent, None]:
        """The events after `after`, then live; each once, in order and without a gap.

        Ends after the event that ends the task. A task whose process died fails, and that
        event is the last. A save without an event that ends the task is yielded as the task.

        Raises `TaskNotFoundError` if the task does not exist, is deleted or expires, or if
        `after` is no version of it.
        """
        found = await self._logs.find(task_id)
        if found is None:
            raise TaskNotFoundError
        info, summary = found
        offset = 0 if after.is_missing else number_of(after) - summary.base
        if not 0 <= offset <= info.tail:
            raise TaskNotFoundError
        if offset == info.tail and summary.state in TERMINAL_STATES:
            return
        reader = EntryReader()
        async for records in self._batches(info, offset):
            for entry in reader.entries_of(records):
                event = entry.event
                if event is None and entry.state in TERMINAL_STATES:
                    event = entry.task
                if event is not None:
                    yield VersionedEvent(event, TaskVersion(summary.base + entry.end))
                if entry.state in TERMINAL_STATES:
                    return

    async def destroy(self, task_id: str) -> None:
        """Nothing is left to release: subscribers end with the task, and its events are its
        stored form, which `A2ATaskStore.delete` deletes."""

    async def _batches(
        self, info: StreamInfo, offset: int
    ) -> AsyncGenerator[list[Record], None]:
        """The records of a log from `offset`, live, to its end."""
        while True:
            follower = follow(self._logs.store, info.id, offset, producer_timeout=self._timeout)
            try:
                while batch := await follower.batch():
                    if follower.info is not None and is_namesake(info, follower.info):
                        raise TaskNotFoundError
                    yield batch
                return
            except ProducerLost as exc:
                await self._logs.fail_lost(exc.info)
                offset = follower.offset
            except StreamNotFound as exc:
                raise TaskNotFoundError from exc
            finally:
                await follower.aclose()
