"""What an instrumented store measures, and that it does nothing without an SDK."""

from __future__ import annotations

import asyncio
import logging

import pytest

from streamstores import (
    Conflict,
    Follower,
    MemoryStreamStore,
    StreamNotFound,
    StreamStore,
    StreamWriter,
    follow,
    observation,
)
from streamstores.integrations.opentelemetry import InstrumentedStore, instrument, uninstrument
from tests.telemetry.recording import Recording
from tests.wrapping import Delegating, Faulty, Wrapping


async def test_without_a_provider_the_store_itself_is_returned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "streamstores.opentelemetry"):
        async with MemoryStreamStore() as store:
            assert instrument(store) is store
    assert observation.observer is None
    assert [each.event for each in caplog.records] == ["telemetry.no_provider"]  # type: ignore[attr-defined]


async def test_calls_records_and_bytes_are_counted(recording: Recording) -> None:
    async with recording.instrument(MemoryStreamStore()) as store:
        info = await store.create("s", b"12")
        await store.append("s", b"345", b"6", version=info.version)
        with pytest.raises(Conflict):
            await store.append("s", b"7", version=info.version)
        with pytest.raises(StreamNotFound):
            await store.read("other")
        await store.mark_done("s")
    of_memory = {"streamstores_store": "memory"}
    assert recording.value("append.records", **of_memory) == 3
    assert recording.value("append.io", **of_memory) == 6
    duration = "operation.duration"
    assert recording.value(duration, streamstores_operation="append", **of_memory) == 2
    assert recording.value(duration, error_type="Conflict") == 1
    assert recording.value(duration, streamstores_operation="read") == 1
    assert recording.value(duration, error_type="StreamNotFound") == 1
    assert recording.value(duration, streamstores_operation="mark_done") == 1


async def test_no_attribute_of_a_metric_or_span_holds_an_id(recording: Recording) -> None:
    async with recording.instrument(MemoryStreamStore()) as store:
        await store.create("a-secret-id", b"x", attributes={"user": "a-secret-name"})
        await store.append("a-secret-id", b"y", state="done")
        assert [record.data async for record in follow(store, "a-secret-id")] == [b"x", b"y"]
        with pytest.raises(StreamNotFound):
            await store.info("another-secret-id")
    told = str([*recording.points().items(), *(s.to_json() for s in recording.all_spans())])
    assert "streamstores.append.io" in told
    assert "secret" not in told


@pytest.mark.parametrize(
    "wrap",
    [
        lambda store, recording: recording.instrument(Wrapping(store)),
        lambda store, recording: recording.instrument(Delegating(store)),
        lambda store, recording: Wrapping(recording.instrument(store)),
        lambda store, recording: Delegating(recording.instrument(store)),
    ],
    ids=["around", "around-delegating", "within", "within-delegating"],
)
async def test_a_wrapper_around_or_within_loses_nothing(
    recording: Recording, wrap: object
) -> None:
    store: StreamStore = wrap(MemoryStreamStore(), recording)  # type: ignore[operator]
    async with store:
        await store.create("s")
        followers: list[Follower] = [follow(store, "s") for _ in range(3)]
        steps = [asyncio.ensure_future(each.__anext__()) for each in followers]
        while recording.value("followers.active", streamstores_store="memory") < 3:
            await asyncio.sleep(0.01)
        # Live: what comes now is delivered and not replayed.
        async with StreamWriter(store, "s") as writer:
            await writer.write(b"text")
            await asyncio.gather(*steps)
        for each in followers:
            await each.aclose()
    assert recording.value("append.records", streamstores_store="memory") == 1
    assert recording.value("delivery.duration", streamstores_store="memory") > 0
    assert recording.value("followers.active", streamstores_store="memory") == 0


async def test_a_producers_retries_are_counted_with_their_reasons(
    recording: Recording,
) -> None:
    faulty = Faulty("before", "landed", "lost")
    async with recording.instrument(faulty, name="faulty") as store:
        await store.create("s")
        async with StreamWriter(store, "s") as writer:
            await writer.write(b"text")
    assert recording.value("retries", error_type="StoreUnavailable") >= 1
    assert recording.value("retries", error_type="OutcomeUnknown") >= 1


async def test_after_uninstrument_the_store_works_and_tells_nothing(
    recording: Recording,
) -> None:
    async with recording.instrument(MemoryStreamStore()) as store:
        assert isinstance(store, InstrumentedStore)
        uninstrument()
        await store.create("s", b"x")
    assert recording.value("append.io") == 0


async def test_polls_tell_whether_they_found_what_no_notice_told(
    recording: Recording,
) -> None:
    class Deaf(Wrapping):
        """A store whose `wait` hears of nothing."""

        async def wait(self, stream_id: str, **options: object) -> object:
            await asyncio.Event().wait()

    inner = MemoryStreamStore()
    deaf = Deaf(inner)
    deaf.limits = inner.limits.__class__(poll_interval=0.05)
    async with recording.instrument(deaf) as store:
        await store.create("s")
        following = asyncio.ensure_future(follow(store, "s").__anext__())
        while not recording.value("polls", streamstores_poll_found=False):
            await asyncio.sleep(0.01)
        await inner.append("s", b"x")
        await following
    assert recording.value("polls", streamstores_poll_found=True) == 1


async def test_sweeps_are_counted(recording: Recording) -> None:
    async with recording.instrument(MemoryStreamStore()) as store:
        await store.create("s", ttl=0.001)
        while not await store.sweep() and not recording.value("swept.streams"):
            await asyncio.sleep(0.01)
    assert recording.value("swept.streams", streamstores_store="memory") == 1
    assert recording.value("sweeps", streamstores_store="memory") >= 1
