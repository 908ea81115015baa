"""Replies that arrive in pieces, driven by hand on a connection of a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio.connection import Connection
from redis.exceptions import InvalidResponse, NoScriptError

from streamstores.backends._redis.connecting import disconnect
from streamstores.backends._redis.wire import Wire
from tests.redis.helpers import eventually, server_or_skip
from tests.services.redis import Server

REPLIES = (
    (b"$3\r\nabc\r\n", b"abc"),
    (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b":-12\r\n", -12),
    (b"+OK\r\n", b"OK"),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n+b\r\n", [b"a", [1, None], b"b"]),
)
BYTES = b"".join(sent for sent, _ in REPLIES)
MEANT = [meant for _, meant in REPLIES]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with server_or_skip() as server:
        yield server


@pytest_asyncio.fixture
async def connection(server: Server) -> AsyncIterator[Connection]:
    connection = Connection(port=server.port, protocol=2)
    await connection.connect()
    yield connection
    await disconnect(connection)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, len(BYTES)])
async def test_replies_are_whole_however_their_bytes_are_cut(connection, size):
    replies: list[Any] = []
    wire = Wire(connection, replies.append)
    for start in range(0, len(BYTES), size):
        wire.data_received(BYTES[start : start + size])
    assert replies == MEANT


async def test_a_reply_is_handed_over_as_soon_as_it_is_whole(connection):
    replies: list[Any] = []
    wire = Wire(connection, replies.append)
    for sent, meant in REPLIES:
        wire.data_received(sent[:-1])
        count = len(replies)
        wire.data_received(sent[-1:])
        assert replies[count:] == [meant]


async def test_a_big_reply_is_put_together_once(connection, monkeypatch):
    replies: list[Any] = []
    wire = Wire(connection, replies.append)
    looks = []
    take = wire._take
    monkeypatch.setattr(wire, "_take", lambda data: looks.append(len(data)) or take(data))
    data = b"x" * 1_000_000
    sent = b"$1000000\r\n" + data + b"\r\n"
    for start in range(0, len(sent), 10_000):
        wire.data_received(sent[start : start + 10_000])
    assert replies == [data]
    assert len(looks) == 2


async def test_errors_are_those_of_the_driver_and_break_nothing(connection):
    replies: list[Any] = []
    wire = Wire(connection, replies.append)
    wire.send((b"EVALSHA", b"0" * 40, 0), (b"PING",))
    await eventually(lambda: _has_length(replies, 2))
    assert isinstance(replies[0], NoScriptError)
    assert replies[1] == b"PONG"


async def test_what_is_no_reply_ends_the_wire(connection):
    wire = Wire(connection, lambda reply: None)
    wire.data_received(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(InvalidResponse, match="HTTP"):
        await wire.lost


async def test_the_end_of_the_connection_ends_the_wire(server, connection):
    wire = Wire(connection, lambda reply: None)
    assert wire.is_writable
    server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(ConnectionError):
        await wire.lost
    assert not wire.is_writable


async def test_a_server_that_takes_nothing_is_waited_for(server, connection):
    replies: list[Any] = []
    writable: list[bool] = []
    wire = Wire(connection, replies.append, lambda: writable.append(wire.is_writable))
    server.ask("CLIENT", "PAUSE", 300, "ALL")
    wire.send((b"ECHO", b"x" * 30_000_000))
    assert not wire.is_writable
    await eventually(lambda: _has_length(replies, 1))
    assert writable == [True]
    assert len(replies[0]) == 30_000_000


async def _has_length(replies: list[Any], length: int) -> bool:
    return len(replies) == length
