"""Real servers for the tests: by a URL that is given, from Docker, or from a wheel.

If a service cannot be started, its tests are skipped with the reason. They fail instead if
`STREAMSTORES_REQUIRE` names the service (comma-separated).
"""

from __future__ import annotations

import gc
import os
import socket
import warnings
from typing import NoReturn

import pytest


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


def free_port(*, below: int = 65_536) -> int:
    """A loopback port that is free at the moment."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < below:
            return port


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
