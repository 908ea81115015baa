"""Server processes that die and are replaced, and proxies by which clients reach them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.http.serving import KEEP_ALIVE
from tests.services import PATIENCE

MOST_DEAD = 2


class Note(NamedTuple):
    """A note of a model: it was `called`, or `halted` (also after its last piece)."""

    what: str
    id: str
    pid: int
    partial: str
    at: float
    """Seconds of this machine's monotonic clock."""


class Worker:
    """A uvicorn process."""

    def __init__(self, child: asyncio.subprocess.Process, url: str) -> None:
        self.url = url
        self.pid = child.pid
        self.port = int(url.rpartition(":")[2])
        self.child = child
        self.log: deque[str] = deque(maxlen=200)
        self._reading = asyncio.ensure_future(self._read())

    def send(self, number: int) -> None:
        self.child.send_signal(number)

    async def end(self, number: int = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):
            self.send(number)
        await self.child.wait()
        await self._reading

    async def _read(self) -> None:
        assert self.child.stderr is not None
        async for line in self.child.stderr:
            self.log.append(line.decode(errors="replace").rstrip())


class Fleet:
    """Workers on one store. One that ends is replaced, as by a supervisor."""

    def __init__(self, url: str, folder: Path, pause_for: float) -> None:
        self.workers: list[Worker] = []
        self.ended: set[int] = set()
        self.logs: list[str] = []
        self._notes = folder / "notes"
        self._notes.touch()
        self._environment = {
            **os.environ,
            "STORE": url,
            "NOTES": str(self._notes),
            "PAUSE_FOR": str(pause_for),
        }
        self._may_die = asyncio.Semaphore(MOST_DEAD)
        self._replacing: set[asyncio.Future[None]] = set()

    async def start(self) -> Worker:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "uvicorn", "--port", "0"),
            *KEEP_ALIVE,
            *(
                "--log-level",
                "info",
                "--no-access-log",
                "--factory",
                "tests.faults.app:make_app",
            ),
            env=self._environment,
            stderr=asyncio.subprocess.PIPE,
        )
        assert child.stderr is not None
        said = b""
        while b"Uvicorn running on" not in (line := await child.stderr.readline()):
            said += line
            assert line, f"a worker did not start: {said.decode(errors='replace')}"
        worker = Worker(child, line.decode().partition("running on ")[2].split()[0])
        self.workers.append(worker)
        return worker

    async def end(self, pid: int | None, number: int, chance: random.Random) -> None:
        """Signal to the worker, or to any where that one is gone, to end, and begin to replace
        it. Waits until enough others live."""
        await self._may_die.acquire()
        found = [worker for worker in self.workers if worker.pid == pid]
        worker = found[0] if found else chance.choice(self.workers)
        self.workers.remove(worker)
        self.ended.add(worker.pid)
        self._replacing.add(asyncio.ensure_future(self._replace(worker, number)))

    async def _replace(self, worker: Worker, number: int) -> None:
        await worker.end(number)
        self.logs += worker.log
        await self.start()
        self._may_die.release()

    def notes(self, stream_id: str | None, what: str = "called") -> list[Note]:
        """The notes of the models, of one stream or all, in order."""
        notes = [Note(**json.loads(line)) for line in self._notes.read_bytes().splitlines()]
        return [each for each in notes if stream_id in (None, each.id) and each.what == what]

    async def noted(self, stream_id: str, what: str, is_it: Callable[[Note], bool]) -> Note:
        """The first such note; wait for it."""

        async def wait() -> Note:
            while not (found := [n for n in self.notes(stream_id, what) if is_it(n)]):
                await asyncio.sleep(0.01)
            return found[0]

        return await asyncio.wait_for(wait(), PATIENCE)

    async def aclose(self) -> None:
        """End all; raises what kept a worker from coming back."""
        replaced = await asyncio.gather(*self._replacing, return_exceptions=True)
        for worker in self.workers:
            with suppress(ProcessLookupError):
                worker.send(signal.SIGCONT)
            await worker.end()
            self.logs += worker.log
        for result in replaced:
            if isinstance(result, BaseException):
                raise result


@asynccontextmanager
async def fleet_of(
    size: int, url: str, folder: Path, *, pause_for: float = 60.0
) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        fleet = Fleet(url, folder, pause_for)
        stack.push_async_callback(fleet.aclose)
        await fleet.start()  # alone: it creates what the store needs
        await asyncio.gather(*(fleet.start() for _ in range(size - 1)))
        yield fleet


class Door:
    """A port for one client. Each new connection goes to a worker that is alive."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self._fleet = fleet
        self._chance = chance
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None] | None] = set()

    def cut(self) -> None:
        """Abort every connection: both ends see a reset."""
        for writer in self._writers:
            writer.transport.abort()

    async def closed(self) -> None:
        """Wait until no connection is left."""
        while connections := [each for each in self._connections if each is not None]:
            await asyncio.wait(connections)

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        this = asyncio.current_task()
        self._connections.add(this)
        try:
            await self._connect(reader, writer)
        finally:
            self._connections.discard(this)

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        worker = self._chance.choice(self._fleet.workers)
        self._writers.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", worker.port)
        except OSError:  # it has just died
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(up_writer)
        ways = [(reader, up_writer), (up_reader, writer)]
        tasks = [asyncio.ensure_future(_forward(*way)) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for each in (writer, up_writer):
            each.close()  # bytes already sent still arrive
            self._writers.discard(each)
        await asyncio.wait(tasks)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def door_to(fleet: Fleet, chance: random.Random) -> AsyncIterator[tuple[Door, str]]:
    """The door, and the URL of the handler behind it."""
    door = Door(fleet, chance)
    server: Any = await asyncio.start_server(door.connect, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield door, f"http://127.0.0.1:{port}"
    finally:
        server.close()
        door.cut()
        await door.closed()
        await server.wait_closed()
