"""The parts of the fault harness: the schedule, the network, the address, the process."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from streamstores.conformance.faults import (
    Fault,
    FaultSchedule,
    FaultyNetwork,
    ProcessEnded,
    ServerProcess,
    faulty_network,
)
from streamstores.conformance.faults.fault_schedule import Draw
from streamstores.conformance.faults.store_address import address_of, with_address
from tests.services import free_port

QUESTION = b"question" * 100


class Echo:
    """A server that answers every burst with the same bytes, and keeps what has arrived."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.has_all = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65_536):
                self.received += data
                if len(self.received) >= len(QUESTION):
                    self.has_all.set()
                writer.write(data)
        writer.transport.abort()


@asynccontextmanager
async def echo_server() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.url = f"echo://127.0.0.1:{server.sockets[0].getsockname()[1]}/x?y=1"
    async with server:
        yield echo


async def ask(url: str) -> bytes:
    """What comes back, until the answer is whole or the connection ends."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    answer = b""
    with suppress(ConnectionError):
        writer.write(QUESTION)
        while len(answer) < len(QUESTION) and (data := await reader.read(65_536)):
            answer += data
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return answer


@pytest.fixture
def drawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fault:
    """Every burst meets this fault."""

    class OneFault(FaultSchedule):
        def next(self) -> Draw | None:
            return Draw(request.param, 0.05, 20, 7, is_reset=True)

    monkeypatch.setattr(faulty_network, "FaultSchedule", OneFault)
    return request.param


WHOLE = {
    Fault.DELAY,
    Fault.SLOW_ANSWER,
    Fault.SILENCE,
}
NEVER_ARRIVES = {Fault.LOST_REQUEST, Fault.CUT_REQUEST}


@pytest.mark.parametrize("drawn", list(Fault), indirect=True)
async def test_each_fault_does_what_its_name_says(drawn: Fault) -> None:
    async with echo_server() as echo:
        with FaultyNetwork(echo.url) as network:
            assert await ask(network.url) == QUESTION, "nothing is spoilt yet"
            echo.received.clear()
            echo.has_all.clear()
            with network.spoil(1):
                answer = await ask(network.url)
                if drawn in WHOLE:
                    assert answer == QUESTION
                elif drawn is Fault.CUT_ANSWER:
                    assert QUESTION.startswith(answer)
                    assert len(answer) < len(QUESTION)
                elif drawn is not Fault.CUT_AFTER_ANSWER:  # a reset may overtake the answer
                    assert answer == b""
                if drawn not in NEVER_ARRIVES:
                    await asyncio.wait_for(echo.has_all.wait(), 30)
            assert await ask(network.url) == QUESTION, "the network is good again"
            if drawn in NEVER_ARRIVES:
                assert len(echo.received) < 2 * len(QUESTION)
            assert network.counts[drawn] == 1


def draws(seed: int, connection: int) -> list[Draw | None]:
    schedule = FaultSchedule(seed, connection, 0.3)
    return [schedule.next() for _ in range(5000)]


def test_a_seed_and_a_connection_draw_the_same_faults_again() -> None:
    first = draws(7, 1)
    assert draws(7, 1) == first
    assert draws(8, 1) != first
    assert draws(7, 2) != first
    assert {each.fault for each in first if each is not None} == set(Fault)


@pytest.mark.parametrize(
    ("url", "address", "behind"),
    [
        (
            "redis://me:p%40ss@host/3?prefix=a",
            ("host", 6379),
            "redis://me:p%40ss@h:1/3?prefix=a",
        ),
        ("postgresql://u@host:7/db", ("host", 7), "postgresql://u@h:1/db"),
        (
            "s3://b/p?secret_key=a+b&endpoint_url=http%3A%2F%2Fhost%3A9&region=r",
            ("host", 9),
            "s3://b/p?secret_key=a+b&endpoint_url=http%3A%2F%2Fh%3A1&region=r",
        ),
        ("mine://host:5/x", ("host", 5), "mine://h:1/x"),
    ],
)
def test_a_store_url_leads_through_a_network_with_all_its_options(
    url: str, address: tuple[str, int], behind: str
) -> None:
    assert address_of(url) == address
    assert with_address(url, "h", 1) == behind


@pytest.fixture
def process(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that counts its starts in a file."""
    port = free_port()
    script = (
        "import http.server, pathlib, sys\n"
        "starts = pathlib.Path('starts'); starts.open('a').write('.')\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), "
        "http.server.SimpleHTTPRequestHandler).serve_forever()\n"
    )

    def answers() -> bool:
        return asyncio.run(is_open(port))

    with ServerProcess([sys.executable, "-c", script, str(port)], tmp_path, answers) as process:
        yield process


async def is_open(port: int) -> bool:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    await writer.wait_closed()
    return True


def wait_until_frozen(pid: int, *, is_frozen: bool) -> None:
    """A signal takes effect a moment after it was sent."""
    deadline = time.monotonic() + 30
    while (state_of(pid) == "T") is not is_frozen:
        assert time.monotonic() < deadline, state_of(pid)
        time.sleep(0.01)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_is_frozen_resumed_and_restarted(
    process: ServerProcess, tmp_path: Path
) -> None:
    pid = process.pid
    process.freeze()
    wait_until_frozen(pid, is_frozen=True)
    process.resume()
    wait_until_frozen(pid, is_frozen=False)
    process.freeze()
    process.restart()
    assert process.pid != pid
    assert (tmp_path / "starts").read_text() == ".."


def test_a_process_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    process = ServerProcess(
        [sys.executable, "-c", "raise SystemExit('no such port')"], tmp_path, lambda: False
    )
    with pytest.raises(ProcessEnded, match="no such port"):
        process.start()
    with pytest.raises(ProcessEnded, match="not running"):
        process.freeze()
