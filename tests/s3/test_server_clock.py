"""S3's time, by the dates of its answers."""

from __future__ import annotations

import time

import pytest

from streamstores.backends._s3.server_clock import ServerClock


@pytest.mark.parametrize("ahead", [0.0, 0.9, 3.0, -40.0, 86_400.0])
def test_the_time_is_within_a_second_of_what_s3_says(ahead: float) -> None:
    clock = ServerClock()
    for _ in range(3):
        asked_at = time.monotonic()
        clock.observe(int(time.time() + ahead), asked_at, time.monotonic())
    assert abs(clock.seconds() - (time.time() + ahead)) <= 1.0


def test_the_machines_clock_is_used_if_it_agrees() -> None:
    clock = ServerClock()
    before = time.time()
    clock.observe(int(before), time.monotonic() - 0.5, time.monotonic())
    assert before <= clock.seconds() <= time.time()


def test_a_server_clock_that_was_set_is_followed() -> None:
    clock = ServerClock()
    now = time.monotonic()
    clock.observe(1000.0, now, now)
    clock.observe(5000.0, now, now)
    assert 5000.0 <= clock.seconds() <= 5001.0 + time.monotonic() - now


def test_answers_at_different_times_narrow_the_bounds() -> None:
    """At 0.9 seconds by S3's clock and then at 0.1 of the next: a fifth of a second is left."""
    clock = ServerClock()
    now = time.monotonic()
    clock.observe(999.0, now - 0.2, now - 0.2)
    clock.observe(1000.0, now, now)
    assert 1000.0 <= clock.seconds() <= 1000.3 + time.monotonic() - now
