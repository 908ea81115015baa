"""Notices changes that other processes commit, by looking at `PRAGMA data_version`."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from typing import NamedTuple

from streamstores.backends._sqlite.database import Settings, connect, data_version
from streamstores.errors import StreamStoreError

__all__ = ["FileChanges", "Watcher"]

_LAST = "SELECT number, ended FROM streamstores_changes"
_AT_THE_TOP = "SELECT id, version FROM streamstores_streams WHERE changed >= ?"


class FileChanges(NamedTuple):
    """What was committed since the last look, by this process or another."""

    versions: list[tuple[str, int]]
    """Ids of changed streams, and the version each has reached."""
    may_have_ended: bool
    """Whether a stream was deleted, or began anew: then anything may be missing above."""


class Watcher:
    """A thread that looks every `interval` seconds while somebody watches.

    A look without a change is one `PRAGMA data_version`: no I/O, a few microseconds. What
    changed is called back in the event loop.
    """

    def __init__(
        self,
        settings: Settings,
        interval: float,
        on_changes: weakref.WeakMethod[Callable[[FileChanges], None]],
    ) -> None:
        self._settings = settings
        self._interval = interval
        self._on_changes = on_changes
        self._loop = asyncio.get_running_loop()
        self._watched = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="streamstores sqlite watcher", daemon=True
        )
        self._thread.start()

    def set_watched(self, watched: bool) -> None:
        """Look or rest. The first look after a rest reports that anything may have changed."""
        if watched:
            self._watched.set()
        else:
            self._watched.clear()

    def stop(self) -> None:
        self._closing.set()
        self._watched.set()

    async def aclose(self) -> None:
        self.stop()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._watched.wait()
            try:
                self._watch()
            except (sqlite3.Error, StreamStoreError):
                # Busy or broken: the store's poll goes on, and its calls say what is wrong.
                self._closing.wait(1.0)

    def _watch(self) -> None:
        """Look, from here on, until nobody watches any more."""
        connection = connect(self._settings)
        try:
            seen = data_version(connection)
            number, ended = connection.execute(_LAST).fetchone()
            known: dict[str, int] = {}  # versions reported of the streams at the top
            self._report(FileChanges([], may_have_ended=True))
            while self._watched.is_set() and not self._closing.is_set():
                time.sleep(self._interval)  # half the cost of waiting for an event
                # The version first, then the number: a commit that slips in between is then
                # found at the next look.
                version = data_version(connection)
                if version == seen:
                    continue
                seen = version
                number_before, ended_before = number, ended
                number, ended = connection.execute(_LAST).fetchone()
                rows = connection.execute(_AT_THE_TOP, (number_before,)).fetchall()
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
        except RuntimeError:  # the loop was closed under an unclosed store
            self._closing.set()
