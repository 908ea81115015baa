"""A stateful S3 server in this process, whose answers a test can spoil.

    with scripted_s3() as server:
        async with S3StreamStore(server.store_url()) as store:
            server.spoil(put_of("segments/"), lose_answer)
            ...

A *fault* is a function of one `Exchange`: it may apply the request or not, and send what it
likes. What the server holds survives `stop` and `start`, as if its process had been killed.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.client import responses
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.services.s3 import S3Server
from tests.services.s3_objects import Objects, Quirks, Request, Response, Wanted, error

BUCKET = "streams"


class Connection:
    """A connection with a client."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.stream = connected.makefile("rb")

    def shut_down(self) -> None:
        """Wake the thread that serves it."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.stream.close()  # the socket stays open as long as its file does
        self.socket.close()


class Exchange:
    """One request on one connection."""

    def __init__(self, server: ScriptedS3, connection: Connection, request: Request) -> None:
        self.server = server
        self.request = request
        self._connection = connection

    def apply(self) -> Response:
        """Do what the request asks for."""
        return self.server.objects.handle(self.request)

    def head(self, response: Response, *, length: int | None = None) -> bytes:
        """The status line and the headers; `length` is a lie about the body's."""
        size = len(response.body) if length is None else length
        headers = {
            "Date": formatdate(self.server.objects.now(), usegmt=True),
            "Server": "scripted",
            "Content-Length": str(size),
            **response.headers,
        }
        if response.status in {204, 304}:
            del headers["Content-Length"]
        lines = [f"{name}: {value}" for name, value in headers.items()]
        first = f"HTTP/1.1 {response.status} {responses[response.status]}"
        return "\r\n".join([first, *lines, "", ""]).encode()

    def send(self, data: bytes) -> None:
        self._connection.socket.sendall(data)

    def answer(self, response: Response) -> None:
        body = b"" if response.status in {204, 304} else response.body
        self.send(self.head(response) + body)

    def close(self) -> None:
        """End the connection in order: the client reads the end of the file."""
        self._connection.close()

    def reset(self) -> None:
        """Abort the connection: the client's socket fails with ECONNRESET."""
        linger = struct.pack("ii", 1, 0)
        with contextlib.suppress(OSError):
            self._connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._connection.close()

    def wait(self, seconds: float) -> bool:
        """Sleep; True if the server was stopped or its faults were cleared meanwhile."""
        return self.server.released.wait(seconds)


Fault = Callable[[Exchange], None]


class _Spoilt(NamedTuple):
    wanted: Wanted
    fault: Fault
    times: list[int]
    """How many more; a list, as it changes."""


class ScriptedS3:
    """The server. `requests` holds all requests so far."""

    def __init__(self, quirks: Quirks | None = None) -> None:
        self.objects = Objects(quirks or Quirks())
        self.requests: list[Request] = []
        self.released = threading.Event()
        self._spoilt: list[_Spoilt] = []
        self._lock = threading.Lock()
        self._port = 0
        self._listener: socket.socket | None = None
        self._connections: set[Connection] = set()

    def __enter__(self) -> ScriptedS3:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before."""
        self.released = threading.Event()
        listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
        self._port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """As if killed: every connection ends, and no new connection is accepted."""
        self.released.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for connection in list(self._connections):
            connection.shut_down()

    @property
    def place(self) -> S3Server:
        return S3Server(f"http://127.0.0.1:{self._port}", "key", "secret", "us-east-1", BUCKET)

    def store_url(self, prefix: str | None = None, **options: object) -> str:
        return self.place.url(prefix, **options)

    def spoil(self, wanted: Wanted, fault: Fault, *, times: int = 1) -> None:
        """Answer the next requests that are `wanted` with a fault; `times` 0 means all."""
        with self._lock:
            self._spoilt.append(_Spoilt(wanted, fault, [times or 10**9]))

    def mend(self) -> None:
        """No more faults; what stalls goes on."""
        with self._lock:
            self._spoilt.clear()
        released, self.released = self.released, threading.Event()
        released.set()

    def count(self, wanted: Wanted) -> int:
        return sum(map(wanted, list(self.requests)))

    def keys(self, part: str = "") -> list[str]:
        return [key for key in sorted(self.objects.found) if part in key]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(connected)
            self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        try:
            while True:
                request = self._read(connection)
                if request is None:
                    return
                self._answer(Exchange(self, connection, request))
        except (OSError, ValueError):
            return  # the client went away, or the fault closed the connection
        finally:
            self._connections.discard(connection)
            connection.close()

    def _answer(self, exchange: Exchange) -> None:
        self.requests.append(exchange.request)
        fault = self._fault_of(exchange.request)
        if fault is not None:
            return fault(exchange)
        return exchange.answer(exchange.apply())

    def _fault_of(self, request: Request) -> Fault | None:
        with self._lock:
            for spoilt in self._spoilt:
                if spoilt.times[0] > 0 and spoilt.wanted(request):
                    spoilt.times[0] -= 1
                    return spoilt.fault
        return None

    def _read(self, connection: Connection) -> Request | None:
        """The next request; None at the end of the connection."""
        stream = connection.stream
        line = stream.readline().decode()
        if not line.strip():
            return None
        method, target, _ = line.split(" ", 2)
        headers = {}
        while True:
            header = stream.readline().decode().strip()
            if not header:
                break
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        parts = urlsplit(target)
        key = unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if headers.get("expect") == "100-continue":
            early = self._fault_of(Request("CONTINUE", key, query, headers, b""))
            if early is not None:
                early(Exchange(self, connection, Request(method, key, query, headers, b"")))
                return None
            connection.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        size = int(headers.get("content-length") or 0)
        body = stream.read(size)
        return Request(method, key, query, headers, body)


@contextlib.contextmanager
def scripted_s3(**quirks: object) -> Iterator[ScriptedS3]:
    with ScriptedS3(Quirks(**quirks)) as server:  # type: ignore[arg-type]
        yield server


# ---- faults


def lose_request(exchange: Exchange) -> None:
    """The request never arrives."""
    exchange.reset()


def lose_answer(exchange: Exchange) -> None:
    """The request is applied, and its answer is lost."""
    exchange.apply()
    exchange.reset()


def cut_after_headers(exchange: Exchange) -> None:
    """The headers arrive, with the length of a body that never does."""
    exchange.send(exchange.head(exchange.apply()))
    exchange.close()


def cut_in_the_body(exchange: Exchange) -> None:
    response = exchange.apply()
    exchange.send(exchange.head(response) + response.body[: len(response.body) // 2])
    exchange.close()


def reset_in_the_body(exchange: Exchange) -> None:
    """As `cut_in_the_body`, but by a reset."""
    response = exchange.apply()
    exchange.send(exchange.head(response) + response.body[: len(response.body) // 2])
    exchange.wait(0.05)  # so that the client has the headers, which a reset would discard
    exchange.reset()


def stall(exchange: Exchange) -> None:
    """Nothing is applied or answered until the server is mended or stopped."""
    exchange.wait(3600)
    exchange.close()


def stall_in_the_body(exchange: Exchange) -> None:
    response = exchange.apply()
    exchange.send(exchange.head(response) + response.body[:1])
    exchange.wait(3600)
    exchange.close()


def trickle(exchange: Exchange) -> None:
    """The answer arrives, a byte at a time, faster than any timeout of a single read."""
    response = exchange.apply()
    _trickle(exchange, exchange.head(response), response.body)


def trickle_headers(exchange: Exchange) -> None:
    _trickle(exchange, b"", exchange.head(exchange.apply()))


def _trickle(exchange: Exchange, head: bytes, body: bytes) -> None:
    exchange.send(head)
    for position in range(len(body)):
        exchange.send(body[position : position + 1])
        if exchange.wait(0.1):
            break
    exchange.close()


def fail_with(status: int, code: str, *, applied: bool = False) -> Fault:
    """An error, before or after the request was applied."""

    def fault(exchange: Exchange) -> None:
        if applied:
            exchange.apply()
        exchange.answer(error(status, code))

    return fault


def error_with_spoilt_body(status: int, code: str, spoil: str) -> Fault:
    """An error whose body is cut, reset or stalled."""

    def fault(exchange: Exchange) -> None:
        response = error(status, code)
        exchange.send(exchange.head(response) + response.body[:10])
        if spoil == "stalled":
            exchange.wait(3600)
        exchange.wait(0.05)
        exchange.reset() if spoil == "reset" else exchange.close()

    return fault


def answer_with(response: Response) -> Fault:
    return lambda exchange: exchange.answer(response)


def delay(seconds: float) -> Fault:
    def fault(exchange: Exchange) -> None:
        time.sleep(seconds)
        exchange.answer(exchange.apply())

    return fault


def arrive_late(released: threading.Event) -> Fault:
    """The connection ends at once; the request is applied when `released` is set."""

    def fault(exchange: Exchange) -> None:
        exchange.reset()
        released.wait(60)
        exchange.apply()

    return fault


def cut_in_100_continue(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 100 Continue\r\n")
    exchange.close()


def new_prefix() -> str:
    return secrets.token_hex(8)
