"""The socket itself, or the driver's public methods: both carry the same traffic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection
from redis.exceptions import InvalidResponse, NoScriptError

from streamstores import RedisStreamStore, follow
from streamstores.backends._redis.connections import close_connection
from streamstores.backends._redis.transports import (
    DirectTransport,
    DriverTransport,
    open_transport,
)
from streamstores.conformance import Target, contract_tests
from tests.redis.helpers import eventually, everything, server_or_skip
from tests.services.redis import OLDEST, Server


class PublicConnection:
    """A connection of redis-py that shows its public attributes only.

    That is what a version of the driver looks like in which the private ones have new names.
    """

    def __init__(self, **options: Any) -> None:
        self._inner = Connection(**options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with server_or_skip() as server:
        yield server


@pytest_asyncio.fixture(params=[Connection, PublicConnection])
async def connection(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Any]:
    connection = request.param(port=server.port, protocol=2)
    await connection.connect()
    yield connection
    await close_connection(connection)


@asynccontextmanager
async def public_store(port: int) -> AsyncIterator[RedisStreamStore]:
    """A store whose driver has no private attributes that it could use."""
    pool = ConnectionPool(connection_class=PublicConnection, port=port)
    async with Redis(connection_pool=pool) as client:
        async with RedisStreamStore(client) as store:
            yield store


@pytest.fixture(scope="module")
def public_target() -> Iterator[Target]:
    with server_or_skip(OLDEST) as server:
        yield Target(lambda: public_store(server.port))


test_contract_without_private_attributes_of_the_driver = pytest.mark.long(
    contract_tests("public_target")
)


async def test_the_socket_is_used_if_the_driver_shows_it(server):
    for kind, expected in ((Connection, DirectTransport), (PublicConnection, DriverTransport)):
        connection = kind(port=server.port, protocol=2)
        await connection.connect()
        assert type(open_transport(connection, lambda reply: None)) is expected
        await close_connection(connection)


async def test_notices_reach_followers_without_private_attributes_of_the_driver(server):
    async with public_store(server.port) as store, public_store(server.port) as other:
        await store.create("heard")
        following = asyncio.create_task(everything(follow(other, "heard")))
        for number in range(200):
            await store.append("heard", b"%d " % number)
        await store.mark_done("heard")
        assert await following == b"".join(b"%d " % number for number in range(200))


async def test_errors_are_those_of_the_driver_and_break_nothing(connection):
    replies: list[Any] = []
    transport = open_transport(connection, replies.append)
    transport.send((b"EVALSHA", b"0" * 40, 0), (b"PING",))
    await eventually(lambda: _has_length(replies, 2))
    assert isinstance(replies[0], NoScriptError)
    assert replies[1] == b"PONG"


async def test_bytes_that_are_no_reply_end_the_transport(server):
    connection = Connection(port=server.port, protocol=2)
    await connection.connect()
    transport = open_transport(connection, lambda reply: None)
    assert isinstance(transport, DirectTransport)
    transport.data_received(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(InvalidResponse, match="HTTP"):
        await transport.lost
    await close_connection(connection)


async def test_an_error_of_the_handler_ends_the_transport(connection):
    def refuse(reply: Any) -> None:
        raise ValueError(reply)

    transport = open_transport(connection, refuse)
    transport.send((b"PING",))
    with pytest.raises(ValueError, match="PONG"):
        await transport.lost


async def test_the_end_of_the_connection_ends_the_transport(server, connection):
    transport = open_transport(connection, lambda reply: None)
    assert transport.is_writable
    server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    with pytest.raises(Exception, match=r"(?i)connection|reading"):
        await transport.lost
    assert not transport.is_writable


async def test_a_connection_that_has_ended_before_ends_the_transport_at_once(server):
    """As after the greeting; otherwise no request would ever be sent, and each call hang."""
    connection = Connection(port=server.port, protocol=2)
    await connection.connect()
    socket_transport = connection._writer.transport
    ended = asyncio.get_running_loop().create_future()
    protocol = socket_transport.get_protocol()
    lose = protocol.connection_lost
    protocol.connection_lost = lambda exc: (lose(exc), ended.set_result(None))
    socket_transport.abort()
    await ended
    transport = open_transport(connection, lambda reply: None)
    assert not transport.is_writable
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(transport.lost, 10)
    await close_connection(connection)


async def test_a_server_that_reads_slowly_is_waited_for(server, connection):
    replies: list[Any] = []
    writable: list[bool] = []
    transport = open_transport(
        connection, replies.append, lambda: writable.append(transport.is_writable)
    )
    server.ask("CLIENT", "PAUSE", 300, "ALL")
    transport.send((b"ECHO", b"x" * 30_000_000))
    assert not transport.is_writable
    await eventually(lambda: _has_length(replies, 1))
    await eventually(lambda: _has_length(writable, 1))
    assert writable == [True]
    assert len(replies[0]) == 30_000_000


async def _has_length(items: list[Any], length: int) -> bool:
    return len(items) == length
