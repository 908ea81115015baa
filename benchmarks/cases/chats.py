"""Whole chats: from the token that a model yields to the client that reads it over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from statistics import quantiles
from typing import Any

from benchmarks.cases.case import Case, Metric, Target
from benchmarks.services import CHATS
from benchmarks.subjects.chat import ChatClient, ChatServer
from benchmarks.trial import Trial

_LEAD_SECONDS = 1.5
"""From the first request to the first paced token: time for every chat to begin."""

_SHORT_ANSWER = 12
_FIRST_CROWD = 25
_IN_TIME_MS = 100.0  # at the 99th percentile


async def live_chats(
    trial: Trial, *, chats: str = "chats", rate: int | None = None
) -> dict[str, float]:
    """Many chats at their pace. CPU time is that of the server, once all have begun."""
    count, rate = getattr(trial.sizes, chats), rate or trial.sizes.rate
    length = max(2, int(trial.sizes.seconds * rate))
    async with _server(trial) as server:
        return await _run_chats(server, "c", count, length, rate)


async def most_chats(trial: Trial) -> dict[str, float]:
    """The largest crowd that got its tokens in time, searched in steps of a fourth.

    Each step is a crowd of new chats. The first that is too large ends the search.
    """
    rate, count, most = trial.sizes.rate, _FIRST_CROWD, 0
    async with _server(trial) as server:
        await server.warm_up()
        while count <= trial.sizes.most_chats:
            figures = await _run_chats(server, f"{count}-", count, rate, rate)
            if figures["delivered"] < 1 or figures["p99"] > _IN_TIME_MS:
                break
            most = count
            count = count * 5 // 4
    return {"chats": most}


async def _run_chats(
    server: ChatServer, prefix: str, count: int, length: int, rate: float
) -> dict[str, float]:
    start = time.monotonic() + _LEAD_SECONDS
    clients = [
        await server.ask(f"{prefix}{number}", length, rate, start + number / count / rate)
        for number in range(count)
    ]
    await _until(lambda: all(client.first_after for client in clients), 10.0)
    await asyncio.sleep(max(0.0, start - time.monotonic()))
    before = server.cpu_seconds
    await _until(lambda: _taken(clients) >= count * length, length / rate * 3 + 5)
    used = server.cpu_seconds - before
    for client in clients:
        client.transport.abort()
    return {
        "cpu": used / max(_taken(clients), 1) * 100_000,
        "delivered": _taken(clients) / (count * length),
        **_percentiles([each for client in clients for each in client.latencies]),
    }


async def begin_chats(trial: Trial) -> dict[str, float]:
    """Many short chats begun within half a second, each on a connection of its own."""
    count, rate = trial.sizes.crowd_chats, trial.sizes.rate
    async with _server(trial) as server:
        await server.warm_up()
        before = server.cpu_seconds
        start = time.monotonic()
        asked: list[asyncio.Task[ChatClient]] = []
        for number in range(count):
            due = start + number / count / 2
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            request = server.ask(f"c{number}", _SHORT_ANSWER - 1, rate, due)
            asked.append(asyncio.create_task(request))
        clients = await asyncio.gather(*asked)
        expected = count * (_SHORT_ANSWER - 1)
        await _until(lambda: _taken(clients) >= expected, 30.0)
        await asyncio.sleep(0.5)  # what ends a chat is part of its cost
        used = server.cpu_seconds - before
    firsts = [client.first_after for client in clients if client.first_after is not None]
    return {
        "cpu": used / count * 1e3,
        "delivered": (_taken(clients) + len(firsts)) / (count * _SHORT_ANSWER),
        **_percentiles(firsts),
    }


async def hold_chats(trial: Trial, *, chats: str = "crowd_chats") -> dict[str, float]:
    """Resident memory of the server for each chat that has begun and waits, and the CPU that
    they take together, with the heartbeats and pings of the time that this lasts."""
    count: int = getattr(trial.sizes, chats)
    async with _server(trial) as server:
        await server.warm_up()
        before = server.resident_bytes
        start = time.monotonic() + 600
        clients = [await server.ask(f"c{number}", 1, 1, start) for number in range(count)]
        await _until(lambda: all(client.first_after for client in clients), 60.0)
        resident, used = server.resident_bytes - before, server.cpu_seconds
        await asyncio.sleep(trial.sizes.held_seconds)
        used = server.cpu_seconds - used
        return {
            "resident": resident / count / 1024,
            "cpu": used / trial.sizes.held_seconds * 100,
        }


@asynccontextmanager
async def _server(trial: Trial) -> AsyncIterator[Any]:
    async with trial.subject() as server:
        assert isinstance(server, ChatServer)
        yield server


async def _until(holds: Callable[[], bool], patience: float) -> None:
    deadline = time.monotonic() + patience
    # The counters are all there is to see: nothing rings when they change.
    while not holds() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def _taken(clients: Sequence[ChatClient]) -> int:
    return sum(len(client.latencies) for client in clients)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    percentiles = quantiles(seconds, n=100, method="inclusive")
    return {"p50": percentiles[49] * 1e3, "p99": percentiles[98] * 1e3}


def _each(memory: float, sqlite: float, redis: float, postgres: float) -> dict[str, float]:
    return {
        "chat-memory": memory,
        "chat-sqlite": sqlite,
        "chat-redis": redis,
        "chat-postgres": postgres,
    }


def _of_raw(bounds: dict[str, float]) -> dict[str, Target]:
    return {backend: Target(bound) for backend, bound in bounds.items()}


def _absolute(bounds: dict[str, float]) -> dict[str, Target]:
    return {backend: Target(bound, None) for backend, bound in bounds.items()}


_DELIVERED = Metric("delivered", "of all", "higher", _absolute(_each(1, 1, 1, 1)))

_FIGURES = (
    Metric("cpu", "s of the server's CPU for 100,000 tokens", "lower"),
    Metric("p50", "ms", "lower"),
    Metric("p99", "ms", "lower"),
    Metric("delivered", "of all", "higher"),
)

_HELD = (
    Metric("resident", "KiB of resident memory a chat", "lower"),
    Metric("cpu", "% of a core, of all together", "lower"),
)

CASES = (
    Case(
        "chats",
        "100 chats at 50 tokens/s, a client each",
        live_chats,
        (
            Metric(
                "cpu",
                "s of the server's CPU for 100,000 tokens",
                "lower",
                _of_raw(_each(1.4, 1.8, 1.9, 2.2)),
            ),
            Metric("p50", "ms", "lower"),
            Metric("p99", "ms", "lower", _absolute(_each(25, 30, 25, 40))),
            _DELIVERED,
        ),
        frozenset(CHATS),
    ),
    Case(
        "chats-slow",
        "1,000 chats at 2 tokens/s, a client each",
        partial(live_chats, chats="slow_chats", rate=2),
        _FIGURES,
        frozenset(CHATS),
        with_peers=False,
    ),
    Case(
        "chats-fast",
        "25 chats at 200 tokens/s, a client each",
        partial(live_chats, chats="fast_chats", rate=200),
        _FIGURES,
        frozenset(CHATS),
        with_peers=False,
    ),
    Case(
        "chats-most",
        "The most chats at 50 tokens/s whose p99 is under 100 ms",
        most_chats,
        (Metric("chats", "at a time", "higher"),),
        frozenset(CHATS),
    ),
    Case(
        "chats-begun",
        "1,000 chats of 12 tokens begun within half a second",
        begin_chats,
        (
            Metric("cpu", "ms of the server's CPU a chat", "lower", _of_raw(_each(2, 3, 3, 3))),
            Metric("p50", "ms to the first token", "lower"),
            Metric(
                "p99",
                "ms to the first token",
                "lower",
                _absolute(_each(300, 300, 300, 1_000)),
            ),
            _DELIVERED,
        ),
        frozenset(CHATS),
    ),
    Case(
        "chats-held",
        "1,000 live chats that wait for their next token",
        hold_chats,
        _HELD,
        frozenset(CHATS),
        with_peers=False,
    ),
    Case(
        "chats-open",
        "10,000 live chats that wait for their next token",
        partial(hold_chats, chats="open_chats"),
        _HELD,
        frozenset(CHATS),
        with_peers=False,
    ),
)
