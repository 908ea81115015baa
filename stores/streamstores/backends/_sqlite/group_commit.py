"""Group commit: mutations that arrive during a commit go out together in the next."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from streamstores.backends._sqlite.database import translated
from streamstores.backends._sqlite.threads import ConnectionThread
from streamstores.backends._sqlite.transactions import (
    Operation,
    Outcome,
    Transaction,
    WritingConnection,
)

T = TypeVar("T")

MUTATIONS_AT_ONCE = 512


class GroupCommit:
    """The queue of mutations before the writing connection."""

    def __init__(self, thread: ConnectionThread, writer: WritingConnection, path: str) -> None:
        self._thread = thread
        self._writer = writer
        self._path = path
        self._queue: list[_QueuedMutation] = []
        self._in_flight: _Commit | None = None

    def add(
        self, operation: Callable[[Transaction], T], then: Callable[[T], None] | None
    ) -> asyncio.Future[T]:
        """Run an operation in the next transaction.

        `then` is called with its result when it is committed, even if the future has been
        cancelled meanwhile.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(_QueuedMutation(operation, then, future))
        if self._in_flight is None:
            self._commit_queue()
        return future

    async def drain(self) -> None:
        """Wait until everything that was added is committed or refused."""
        while self._in_flight is not None:
            await asyncio.wait([self._in_flight])

    def _commit_queue(self) -> None:
        """Hand what is queued to the thread, as one transaction."""
        batch = [
            each for each in self._queue[:MUTATIONS_AT_ONCE] if not each.future.done()
        ]  # a future that is done was cancelled before its mutation began
        del self._queue[:MUTATIONS_AT_ONCE]
        operations = [queued.operation for queued in batch]
        self._in_flight = _Commit(partial(self._settle, batch))
        self._thread.send(self._in_flight, partial(self._writer.commit, operations))

    def _settle(
        self, batch: Sequence[_QueuedMutation], outcomes: Sequence[Outcome] | BaseException
    ) -> None:
        self._in_flight = None
        if isinstance(outcomes, BaseException):
            outcomes = [self._failure(outcomes)] * len(batch)
        # Settled before the next batch is taken: a caller that goes on at once is then in it.
        for queued, outcome in zip(batch, outcomes, strict=True):
            queued.settle(outcome)
        if self._writer.is_checkpoint_due:  # after the mutations, which need not wait for it
            self._thread.submit(_checkpoint, self._writer)
        if self._queue:
            self._commit_queue()

    def _failure(self, raised: BaseException) -> Exception:
        if isinstance(raised, sqlite3.Error):
            error = translated(raised, self._path)
            error.__cause__ = raised
            return error
        assert isinstance(raised, Exception), "the thread runs nothing that ends a process"
        return raised


class _QueuedMutation(NamedTuple):
    """A mutation on its way to a transaction, with the caller's future."""

    operation: Operation
    then: Callable[[Any], None] | None
    future: asyncio.Future[Any]

    def settle(self, outcome: Any) -> None:
        if isinstance(outcome, Exception):
            if not self.future.done():
                self.future.set_exception(outcome)
            return
        if self.then is not None:
            self.then(outcome)
        if not self.future.done():
            self.future.set_result(outcome)


class _Commit(asyncio.Future[None]):
    """A transaction under way.

    It settles its mutations in the moment in which its thread reports. A callback of a future
    would wait for the next turn of the loop.
    """

    def __init__(self, settle: Callable[[Sequence[Outcome] | BaseException], None]) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self._settle = settle

    def set_result(self, outcomes: Any) -> None:
        super().set_result(None)
        settle = self._settle
        del self._settle  # the thread keeps its last future, which must not keep the store
        settle(outcomes)

    set_exception = set_result


def _checkpoint(connection: sqlite3.Connection, writer: WritingConnection) -> None:
    writer.checkpoint()
