"""Real servers for the tests: by a URL that is given, from Docker, or from a wheel.

If a service cannot be started, its tests are skipped with the reason. They fail instead if
`STREAMSTORES_REQUIRE` names the service (comma-separated).
"""

from __future__ import annotations

import atexit
import gc
import os
import socket
import sys
import warnings
from typing import NoReturn

import pytest

PATIENCE = 60.0
"""Seconds that a test waits for what must come, and the `timeout` of its stores: a machine that
runs several test suites at once may let a request wait longer than production should."""

_held_ports: list[socket.socket] = []


class Unavailable(Exception):
    """This machine cannot run the service; the message says why."""


def given_url(service: str) -> str | None:
    """The URL in the environment variable `STREAMSTORES_TEST_<SERVICE>`, if it is set."""
    name = service.upper().replace("-", "_")
    return os.environ.get(f"STREAMSTORES_TEST_{name}") or None


def is_required(service: str) -> bool:
    required = os.environ.get("STREAMSTORES_REQUIRE", "")
    return service in {name.strip() for name in required.split(",")}


def give_up(service: str, reason: object) -> NoReturn:
    """Skip the test with the reason, or fail it if the service is required."""
    if is_required(service):
        pytest.fail(f"{service} is required and cannot be started: {reason}")
    pytest.skip(f"no {service}: {reason}")


def free_port(*, bus: int = 0) -> int:
    """A loopback port for a server of the tests; with `bus`, the port that far above it is free
    as well.

    It refuses connections until its server listens. On Linux no other process is given it
    before this one ends: it stays bound here, and the server can bind it too because both set
    SO_REUSEADDR and one of them does not listen.
    """
    while True:
        port = _hold(0)
        if not bus or (port + bus < 65_536 and _hold(port + bus)):
            return port


def _hold(port: int) -> int:
    """The port that was bound, or 0 if it is taken."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(("127.0.0.1", port))
        port = held.getsockname()[1]
    except OSError:
        port = 0
    if port and sys.platform == "linux":
        _held_ports.append(held)
    else:
        held.close()
    return port


@atexit.register
def _give_ports_back() -> None:
    for each in _held_ports:
        each.close()


def has_docker() -> bool:
    """Whether a Docker engine answers; the command may be installed without one."""
    try:
        import docker
    except ModuleNotFoundError:
        return False
    with warnings.catch_warnings():
        # docker 7 does not close its socket if it cannot connect.
        warnings.simplefilter("ignore")
        try:
            docker.from_env().close()
            answers = True
        except docker.errors.DockerException:
            answers = False
        gc.collect()
    return answers
