"""The watcher: it notices what other processes commit, by `PRAGMA data_version`."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from typing import NamedTuple

from streamstores.backends._sqlite.database import DatabaseOptions, connect, data_version
from streamstores.errors import StreamStoreError

_LAST = "SELECT number, ended FROM streamstores_changes"
_FROM_NUMBER = "SELECT id, version FROM streamstores_streams WHERE changed >= ?"


class FileChanges(NamedTuple):
    """What was committed since the last look, by this process or another."""

    versions: list[tuple[str, int]]
    """Ids of changed streams, and the version that each has reached."""
    may_have_ended: bool
    """Whether a stream was deleted or began anew: it need not be among `versions`."""


class Watcher:
    """A thread that looks every `interval` seconds while a stream is watched.

    A look at a file without a change is one `PRAGMA data_version`, which takes a few
    microseconds and no I/O. Changes are reported in the event loop.
    """

    def __init__(
        self,
        options: DatabaseOptions,
        interval: float,
        on_changes: weakref.WeakMethod[Callable[[FileChanges], None]],
    ) -> None:
        self._options = options
        self._interval = interval
        self._on_changes = on_changes
        self._loop = asyncio.get_running_loop()
        self._watched = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._run_until_stopped, name="streamstores sqlite watcher", daemon=True
        )
        self._thread.start()

    def set_watched(self, watched: bool) -> None:
        """Look or rest. The first look after a rest reports that anything may have changed."""
        if watched:
            self._watched.set()
        else:
            self._watched.clear()

    def stop(self) -> None:
        """End the thread at its next look, without waiting for it."""
        self._closing.set()
        self._watched.set()

    async def aclose(self) -> None:
        self.stop()
        await asyncio.to_thread(self._thread.join)

    def _run_until_stopped(self) -> None:
        while not self._closing.is_set():
            self._watched.wait()
            try:
                self._watch()
            except (sqlite3.Error, StreamStoreError):
                # The file is busy or broken. Subscribers still poll, and their calls say what
                # is wrong.
                self._closing.wait(1.0)

    def _watch(self) -> None:
        """Look until no stream is watched any more."""
        connection = connect(self._options, sqlite3.Connection)
        try:
            seen = data_version(connection)
            number, ended = connection.execute(_LAST).fetchone()
            known: dict[str, int] = {}  # versions that were reported, of the latest streams
            self._report(FileChanges([], may_have_ended=True))
            while self._watched.is_set() and not self._closing.is_set():
                time.sleep(self._interval)  # half the cost of waiting for an event
                # The version before the number: a commit between the two is then found at
                # the next look.
                version = data_version(connection)
                if version == seen:
                    continue
                seen = version
                number_before, ended_before = number, ended
                number, ended = connection.execute(_LAST).fetchone()
                rows = connection.execute(_FROM_NUMBER, (number_before,)).fetchall()
                changed = [row for row in rows if known.get(row[0]) != row[1]]
                known = dict(rows)
                if changed or ended != ended_before:
                    self._report(FileChanges(changed, ended != ended_before))
        finally:
            connection.close()

    def _report(self, changes: FileChanges) -> None:
        on_changes = self._on_changes()
        if on_changes is None:
            return
        try:
            self._loop.call_soon_threadsafe(on_changes, changes)
        except RuntimeError:  # the loop was closed before the store
            self._closing.set()
