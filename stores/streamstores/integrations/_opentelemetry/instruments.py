"""The instruments of the metrics, with the names that `docs/telemetry.md` explains."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation

__all__ = ["Instruments"]

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RUN_SECONDS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)

FollowersOf = Callable[[], Iterable[tuple[str, int]]]
"""The followers of each store that is measured, by its name. Called in any thread."""


class Instruments:
    """One attribute for each metric. They are asynchronous-safe, and thread-safe."""

    def __init__(self, meter: Meter, followers: FollowersOf) -> None:
        self.operation_duration = meter.create_histogram(
            "streamstores.operation.duration",
            "s",
            "The time that a call of a store took.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.append_io = meter.create_counter(
            "streamstores.append.io", "By", "The bytes that were appended."
        )
        self.append_records = meter.create_counter(
            "streamstores.append.records", "{record}", "The records that were appended."
        )
        self.delivery_duration = meter.create_histogram(
            "streamstores.delivery.duration",
            "s",
            "The time from an append to its records' arrival at a live follower.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.runs_active = meter.create_up_down_counter(
            "streamstores.runs.active", "{run}", "The streams that this process produces."
        )
        self.run_duration = meter.create_histogram(
            "streamstores.run.duration",
            "s",
            "How long a process produced a stream.",
            explicit_bucket_boundaries_advisory=_RUN_SECONDS,
        )
        self.producers_lost = meter.create_counter(
            "streamstores.producers.lost",
            "{producer}",
            "Producers that gave no sign of life in time, as followers here have noticed.",
        )
        self.takeovers = meter.create_counter(
            "streamstores.takeovers",
            "{takeover}",
            "Streams that this process tried to take over.",
        )
        self.retries = meter.create_counter(
            "streamstores.retries", "{retry}", "Calls that producers repeated."
        )
        self.notices_reconnects = meter.create_counter(
            "streamstores.notices.reconnects",
            "{reconnect}",
            "Times that the connection for notices failed and was tried anew.",
        )
        self.polls = meter.create_counter(
            "streamstores.polls",
            "{poll}",
            "Questions to a store about changes of which no notice came.",
        )
        self.pool_wait_duration = meter.create_histogram(
            "streamstores.pool.wait.duration",
            "s",
            "The time that a call waited for a connection, if it had to wait.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.sweeps = meter.create_counter(
            "streamstores.sweeps", "{sweep}", "Rounds of giving back storage."
        )
        self.swept_streams = meter.create_counter(
            "streamstores.swept.streams", "{stream}", "Expired streams that were swept."
        )
        self.requests = meter.create_counter(
            "streamstores.http.requests", "{request}", "Requests that handlers answered."
        )

        def observed(options: CallbackOptions) -> Iterable[Observation]:
            for name, count in followers():
                yield Observation(count, {"streamstores.store": name})

        meter.create_observable_up_down_counter(
            "streamstores.followers.active",
            [observed],
            "{follower}",
            "The followers in this process.",
        )
