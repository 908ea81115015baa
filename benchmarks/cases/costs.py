"""The cost of an hour of streaming on a backend that charges for requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.cases.case import Case, Metric, Target
from benchmarks.trial import Audience, Pace, Trial, producing_here

# S3 Standard, us-east-1: https://aws.amazon.com/s3/pricing/
_DOLLARS_A_WRITE = 5.0 / 1_000_000
_DOLLARS_A_READ = 0.4 / 1_000_000

_FOLLOWERS = 10
_PACK_SECONDS = 3.0


async def requests_of_a_stream(trial: Trial) -> dict[str, float]:
    """Requests are counted in three clients: a producer, a reader with ten followers, and a
    reader that comes when the stream is finished and packed."""
    pace = Pace(["s"], max(2, int(trial.sizes.seconds * trial.sizes.rate)), trial.sizes.rate)
    async with trial.subject() as producer, trial.subject() as reader:
        async with producing_here(producer, pace) as producers:
            audience = Audience(reader, pace.stream_ids, _FOLLOWERS, stamped=False)
            try:
                await audience.joined()
                writes, reads = _sent(producer), _sent(reader)
                started = time.perf_counter()
                await producers.go()
                await audience.took(pace.length * _FOLLOWERS, 60.0)
                seconds = time.perf_counter() - started
            finally:
                await audience.leave()
            put = (_sent(producer)[0] - writes[0]) / seconds
            get = (_sent(reader)[1] - reads[1]) / seconds
            await producers.wait()
        await asyncio.sleep(min(_PACK_SECONDS, trial.sizes.seconds * 2))
        dollars = 3600 * (put * _DOLLARS_A_WRITE + get * _DOLLARS_A_READ)
        return {"put": put, "get": get, "dollars": dollars, "replay": await _replay(trial)}


async def _replay(trial: Trial) -> float:
    """Requests to read the whole of a finished stream."""
    async with trial.subject() as late:
        before = _sent(late)
        audience = Audience(late, ["s"], stamped=False)
        try:
            await audience.joined()
            await asyncio.sleep(0.5)
        finally:
            await audience.leave()
        return sum(_sent(late)) - sum(before)


def _sent(subject: Any) -> tuple[int, int]:
    return subject.requests.writes, subject.requests.reads


CASES = (
    Case(
        "s3-cost",
        "Requests and cost of one stream at 50/s with 10 followers",
        requests_of_a_stream,
        (
            Metric("put", "PUT a second", "lower", {"s3": Target(5.5, None)}),
            Metric("get", "GET a second", "lower", {"s3": Target(5.0, None)}),
            Metric("dollars", "dollars an hour", "lower"),
            Metric("replay", "requests, finished stream", "lower", {"s3": Target(2, None)}),
        ),
        frozenset({"s3"}),
    ),
)
