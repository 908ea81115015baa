"""Real servers for the tests: somebody's own by URL, else Docker, else one from a wheel.

A service that cannot be had skips its tests with the reason. Where `STREAMSTORES_REQUIRE`
names it (comma-separated), the tests fail instead.
"""

from __future__ import annotations

import gc
import os
import socket
import warnings
from typing import NoReturn

import pytest


class Unavailable(Exception):
    """This machine cannot run the service; the text says why."""


def given_url(service: str) -> str | None:
    """The URL in `STREAMSTORES_TEST_<SERVICE>`, where somebody set one."""
    name = service.upper().replace("-", "_")
    return os.environ.get(f"STREAMSTORES_TEST_{name}") or None


def is_required(service: str) -> bool:
    required = os.environ.get("STREAMSTORES_REQUIRE", "")
    return service in {name.strip() for name in required.split(",")}


def give_up(service: str, reason: object) -> NoReturn:
    """Skip with the reason, or fail where the service is required."""
    if is_required(service):
        pytest.fail(f"{service} is required and cannot be had: {reason}")
    pytest.skip(f"no {service}: {reason}")


def free_port(*, below: int = 65_536) -> int:
    """A loopback port that nobody listens on now."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < below:
            return port


def has_docker() -> bool:
    """Whether a Docker engine answers; the command being installed proves nothing."""
    try:
        import docker
    except ModuleNotFoundError:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # docker 7 leaves the socket open that did not connect
        try:
            docker.from_env().close()
            answers = True
        except docker.errors.DockerException:
            answers = False
        gc.collect()
    return answers
