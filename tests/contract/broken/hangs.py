"""Stores whose calls do not end: the suite must still end, and say which call hangs."""

from __future__ import annotations

import asyncio
import threading

from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


@caught_by("clause04-returns-the-info-at-timeout")
class IgnoresTheCancellationOfAWait(Wrapper):
    async def wait(self, stream_id, *, version, timeout):
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                continue


@caught_by("clause01-append-makes-each-chunk-a-record")
class NeverCloses(Wrapper):
    async def aclose(self):
        await asyncio.sleep(1000)


class NeverOpens(Wrapper):
    async def __aenter__(self):
        await asyncio.sleep(1000)


class BlocksItsThread(Wrapper):
    async def read(self, stream_id, offset=0, **options):
        threading.Event().wait()


class BlocksItsThreadOnEntry(Wrapper):
    async def __aenter__(self):
        threading.Event().wait()


class BlocksAThreadOfTheExecutor(Wrapper):
    """The thread is not a daemon, so it keeps the interpreter from exiting until `over`."""

    over = threading.Event()

    async def read(self, stream_id, offset=0, **options):
        return await asyncio.to_thread(self.over.wait)


class ExitsTheProgram(Wrapper):
    async def read(self, stream_id, offset=0, **options):
        raise SystemExit(0)
