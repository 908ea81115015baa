"""Finding the TCP connection of a request among the process's sockets, and breaking it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from streamstores.http._asgi.connections import Connection, unsent_bytes

Pair = tuple[socket.socket, socket.socket]


def connect(family: socket.AddressFamily, host: str) -> Pair:
    with socket.create_server((host, 0), family=family) as listening:
        client = socket.create_connection(listening.getsockname()[:2])
        server, _ = listening.accept()
        return client, server


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        client, server = connect(family, request.param)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with client, server:
        yield client, server


def scope_of(end: socket.socket, **others: Any) -> dict[str, Any]:
    """The scope of a request over the connection whose server's end this is."""
    scope: dict[str, Any] = {"client": end.getpeername()[:2], "http_version": "1.1"}
    return {**scope, "server": end.getsockname()[:2], **others}


def test_the_servers_socket_is_found_and_not_the_clients(pair: Pair) -> None:
    client, server = pair
    connection = Connection.of(scope_of(server))
    assert connection is not None
    assert connection.find() == server.fileno()
    assert connection.is_at(server.fileno())
    assert not connection.is_at(client.fileno())
    server.close()
    assert connection.find() is None
    assert not connection.drop()


def test_a_dropped_connection_is_broken_at_both_ends(pair: Pair) -> None:
    client, server = pair
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            server.send(b"x" * 65_536)
    connection = Connection.of(scope_of(server))
    assert connection is not None
    assert unsent_bytes(server.fileno()) > 0
    assert connection.drop()
    assert server.fileno() > 0, "the server's own descriptor stays open"
    with pytest.raises(BrokenPipeError):
        server.send(b"x")
    server.close()
    with pytest.raises(ConnectionResetError):
        while client.recv(65_536):
            pass
        raise AssertionError("the client saw a clean end")


def test_another_connection_of_the_same_server_stays(pair: Pair) -> None:
    _, server = pair
    other_client, other_server = connect(socket.AF_INET, "127.0.0.1")
    with other_client, other_server:
        connection = Connection.of(scope_of(server))
        assert connection is not None
        assert connection.drop()
        other_server.sendall(b"alive")
        assert other_client.recv(5) == b"alive"


@pytest.mark.parametrize(
    "others",
    [
        {"client": None},
        {"server": None},
        {"server": ("/run/server.sock", None)},
        {"http_version": "2"},
        {"http_version": "3"},
    ],
    ids=str,
)
def test_a_connection_that_others_share_is_left_alone(others: dict[str, Any]) -> None:
    client, server = connect(socket.AF_INET, "127.0.0.1")
    with client, server:
        assert Connection.of(scope_of(server, **others)) is None


def test_ports_may_be_text_as_granian_gives_them() -> None:
    client, server = connect(socket.AF_INET, "127.0.0.1")
    with client, server:
        host, port = server.getpeername()
        connection = Connection.of(scope_of(server, client=(host, str(port))))
        assert connection is not None
        assert connection.find() == server.fileno()
