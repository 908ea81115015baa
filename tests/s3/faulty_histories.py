"""Histories of concurrent clients on a server of which every few answers are spoilt.

    python -m tests.s3.faulty_histories --seeds 2000

The faults are drawn from the seed: requests and answers that are lost, writes that arrive late,
errors before and after a request was applied, answers that are cut. A stall is among them, as
rare as it is slow.
"""

from __future__ import annotations

import argparse
import random
import threading
import time

from streamstores import S3StreamStore
from streamstores.conformance import Target
from streamstores.conformance.histories import run_history
from tests.services.s3_objects import error
from tests.services.scripted_s3 import (
    Exchange,
    Fault,
    ScriptedS3,
    arrive_late,
    cut_after_headers,
    cut_in_the_body,
    error_with_spoilt_body,
    fail_with,
    lose_answer,
    lose_request,
    stall,
)

SPOILT_SHARE = 0.04
TIMEOUT_SECONDS = 8.0


def late(exchange: Exchange) -> None:
    """The connection ends; the request is applied a moment later."""
    arrives = threading.Event()
    threading.Timer(random.uniform(0.0, 1.5), arrives.set).start()
    arrive_late(arrives)(exchange)


FAULTS: list[tuple[Fault, int]] = [
    (lose_request, 10),
    (lose_answer, 20),
    (late, 20),
    (fail_with(503, "SlowDown"), 10),
    (fail_with(409, "ConditionalRequestConflict"), 10),
    (fail_with(500, "InternalError"), 5),
    (fail_with(500, "InternalError", applied=True), 15),
    (error_with_spoilt_body(404, "NoSuchKey", "cut"), 5),
    (cut_after_headers, 10),
    (cut_in_the_body, 10),
    (stall, 1),
]


class FaultyServer(ScriptedS3):
    """Spoils a share of all answers, drawn from a seed; the probe's are left alone."""

    def __init__(self, seed: int, share: float) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._share = share
        self._draw = threading.Lock()
        self.spoilt = 0

    def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        is_probe = "probe/" in request.key or "probe/" in request.prefix  # an object or a list
        fault = None if is_probe else self._next_fault()
        if fault is None:
            return super()._answer(exchange)
        self.requests.append(exchange.request)
        if exchange.request.method == "POST" and fault is late:
            return exchange.answer(error(503, "SlowDown"))
        return fault(exchange)

    def _next_fault(self) -> Fault | None:
        with self._draw:
            if self._random.random() >= self._share:
                return None
            self.spoilt += 1
            faults, weights = zip(*FAULTS, strict=True)
            chosen: Fault = self._random.choices(faults, weights)[0]
            return chosen


def run_faulty_history(seed: int, share: float = SPOILT_SHARE) -> tuple[int, int]:
    """How many calls the clients made and how many answers were spoilt; raises
    `AssertionError` if what they saw has no explanation."""
    with FaultyServer(seed, share) as server:
        url = server.store_url("p", timeout=TIMEOUT_SECONDS)
        history = run_history(Target(lambda: S3StreamStore(url)), seed)
        return len(history.operations), server.spoilt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.s3.faulty_histories")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--share", type=float, default=SPOILT_SHARE)
    arguments = parser.parse_args()
    begun_at = time.monotonic()
    calls = spoilt = 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        try:
            more_calls, more_spoilt = run_faulty_history(seed, arguments.share)
        except AssertionError as exc:
            print(exc, flush=True)
            return 1
        calls, spoilt = calls + more_calls, spoilt + more_spoilt
        if seed % 10 == 9:
            seconds = time.monotonic() - begun_at
            print(f"seed {seed}: {calls} calls, {spoilt} spoilt, {seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
