"""`StreamWriter` and doubt: appends that fail, that land unseen, and that no one confirmed."""

from __future__ import annotations

from typing import Any

import pytest

from streamstores import (
    Conflict,
    OutcomeUnknown,
    State,
    StoreUnavailable,
    StreamInfo,
    StreamWriter,
)
from tests.wrapping import Faulty, Wrapping


async def content(store, stream_id="a") -> bytes:
    page = await store.read(stream_id, max_bytes=10**9)
    return b"".join(record.data for record in page.records)


@pytest.mark.parametrize("fault", ["before", "lost", "landed"])
@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_failed_append_is_repeated_and_neither_lost_nor_doubled(fault, at):
    store = Faulty(*[None] * at, fault)
    await store.create("a")
    async with StreamWriter(store, "a", info=await store.info("a")) as writer:
        for chunk in (b"one", b"two", b"three"):
            await writer.write(chunk)
            await writer.flush()
    assert await content(store) == b"onetwothree"
    info = await store.info("a")
    assert info.state is State.DONE
    assert not store.faults


async def test_several_failures_in_a_row_are_retried():
    store = Faulty("before", "lost", "landed", "before")
    await store.create("a")
    async with StreamWriter(store, "a") as writer:
        await writer.write(b"text")
    assert await content(store) == b"text"
    assert (await store.info("a")).state is State.DONE


@pytest.mark.parametrize(
    ("fault", "error"), [("before", StoreUnavailable), ("lost", OutcomeUnknown)]
)
async def test_it_gives_up_with_the_error_after_retry_for(fault, error):
    store = Faulty(*[fault] * 1000)
    await store.create("a")
    writer = StreamWriter(store, "a", retry_for=0.1)
    await writer.write(b"x")
    with pytest.raises(error):
        await writer.flush()
    with pytest.raises(error):
        await writer.write(b"y")
    with pytest.raises(error):
        await writer.aclose("done")


async def test_an_equal_append_of_another_producer_is_not_taken_for_the_one_in_doubt():

    class Stolen(Wrapping):
        stolen = False

        async def append(self, stream_id, *chunks, **options):
            if not self.stolen:
                self.stolen = True
                await self.inner.append(stream_id, attributes={"owner": "thief"})
                await self.inner.append(stream_id, *chunks)
                raise OutcomeUnknown("cut")
            return await super().append(stream_id, *chunks, **options)

    store = Stolen()
    await store.create("a", attributes={"owner": "me"})
    writer = StreamWriter(store, "a", info=await store.info("a"))
    await writer.write(b"same")
    with pytest.raises(Conflict):
        await writer.flush()
    assert await content(store) == b"same"


async def test_a_takeover_is_not_taken_for_a_heartbeat_in_doubt():
    class Stolen(Wrapping):
        async def append(self, stream_id, *chunks, **options):
            if not options.get("attributes"):
                info = await self.inner.info(stream_id)
                if info.attributes.get("owner") != "thief":
                    await self.inner.append(stream_id, attributes={"owner": "thief"})
                    raise OutcomeUnknown("cut")
            return await super().append(stream_id, *chunks, **options)

    store = Stolen()
    await store.create("a", attributes={"owner": "me"})
    writer = StreamWriter(store, "a", info=await store.info("a"), heartbeat=0.01)
    writer.start()
    assert isinstance(await writer.ended(), Conflict)


@pytest.mark.parametrize("fault", ["lost", "landed"])
async def test_an_append_in_doubt_stays_in_doubt_when_the_store_is_away(fault):
    """`StoreUnavailable` would promise that the append was not applied."""
    store = Faulty(fault, *["before"] * 1000)
    await store.create("a")
    writer = StreamWriter(store, "a", retry_for=0.1)
    await writer.write(b"x")
    with pytest.raises(OutcomeUnknown):
        await writer.flush()


class Unconfirmed(Wrapping):
    """Applies every append, but does not confirm the first `count` of them.

    As a replicated store does whose replicas are away: the mutation can be read, and a
    failover would lose it. An acknowledged mutation confirms all earlier ones.
    """

    def __init__(self, count: float) -> None:
        super().__init__()
        self.count = count
        self.confirmed: StreamInfo | None = None

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        info = await super().append(stream_id, *chunks, **options)
        if self.count:
            self.count -= 1
            raise OutcomeUnknown("the replicas did not confirm it")
        self.confirmed = info
        return info


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_flush_returns_when_the_store_has_confirmed_every_byte(count):
    store = Unconfirmed(count)
    writer = StreamWriter(store, "a", info=await store.create("a"))
    await writer.write(b"text")
    await writer.flush()
    assert store.confirmed == writer.info
    assert (writer.info.tail, writer.info.state) == (4, State.STREAMING)
    await writer.aclose("done")
    assert await content(store) == b"text"


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("ending", ["done", "error", "stopped", None])
@pytest.mark.parametrize("data", [b"", b"text"])
async def test_a_close_returns_when_the_store_has_confirmed_the_end(count, ending, data):
    store = Unconfirmed(count)
    writer = StreamWriter(store, "a", info=await store.create("a"))
    await writer.write(data)
    info = await writer.aclose(ending, attributes={"tokens": "1"})
    assert store.confirmed == info == await store.info("a")
    assert (info.tail, info.state) == (len(data), ending or "streaming")
    assert info.attributes == {"tokens": "1"}


@pytest.mark.parametrize("ending", ["done", None])
async def test_a_writer_whose_bytes_are_never_confirmed_ends_in_doubt(ending):
    store = Unconfirmed(float("inf"))
    writer = StreamWriter(store, "a", info=await store.create("a"), retry_for=0.3)
    await writer.write(b"text")
    with pytest.raises(OutcomeUnknown):
        await writer.aclose(ending)
    assert writer.unstored == [b"text"]
    assert await content(store) == b"text"


async def test_a_takeover_before_the_confirmation_is_a_conflict():
    class TakenOver(Unconfirmed):
        async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
            if not chunks:  # the confirmation
                await self.inner.append(stream_id, attributes={"owner": "thief"})
            return await super().append(stream_id, *chunks, **options)

    store = TakenOver(1)
    writer = StreamWriter(store, "a", info=await store.create("a"))
    await writer.write(b"text")
    with pytest.raises(Conflict):
        await writer.flush()


@pytest.mark.parametrize("error", [StoreUnavailable, OutcomeUnknown])
@pytest.mark.parametrize("question", ["info", "read"])
async def test_a_question_that_fails_is_asked_again(question, error):
    class Failing(Faulty):
        failures = 2

        async def info(self, stream_id: str) -> Any:
            self._fail("info")
            return await super().info(stream_id)

        async def read(self, stream_id: str, offset: int = 0, **options: Any) -> Any:
            self._fail("read")
            return await super().read(stream_id, offset, **options)

        def _fail(self, asked: str) -> None:
            if asked == question and self.failures:
                self.failures -= 1
                raise error("cut")

    store = Failing("landed")
    await store.create("a")
    async with StreamWriter(store, "a") as writer:
        await writer.write(b"text")
    assert not store.failures
    assert await content(store) == b"text"
