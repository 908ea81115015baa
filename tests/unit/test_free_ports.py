"""The ports that the tests' servers listen on."""

from __future__ import annotations

import socket
import sys

import pytest

from tests.services import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ports are held on Linux only")


def test_a_port_is_given_to_nobody_else_and_is_closed_until_its_server_listens() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    for _ in range(2):  # as after a restart
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        with (
            socket.create_server(("127.0.0.1", port)),
            socket.create_connection(("127.0.0.1", port)),
        ):
            pass


def test_the_bus_of_a_cluster_has_a_port_that_is_held_too() -> None:
    port = free_port(bus=10_000)
    for each in (port, port + 10_000):
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", each))
