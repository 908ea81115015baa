"""The pace of writers: at once in a quiet process, together in a busy one."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from streamstores import MemoryStreamStore, State, StreamWriter, follow
from streamstores._writer import pace
from streamstores._writer.pace import FREE_STARTS, Pace, pace_here

CROWD = 20 * FREE_STARTS


class CountingStore(MemoryStreamStore):
    """Counts the appends that reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.appends = 0

    async def append(self, stream_id, *chunks, **options):
        self.appends += 1
        return await super().append(stream_id, *chunks, **options)


@pytest.fixture
def endless_pace(monkeypatch):
    """A pace at which nothing that waits for it would begin within a test."""
    monkeypatch.setattr(pace, "PACE_SECONDS", 3600.0)


def pace_at_one_moment():
    """A pace for which no time passes, however busy the machine is."""
    loop = asyncio.get_running_loop()
    moment = loop.time()
    rhythm = Pace(loop)
    rhythm._clock = lambda: moment
    return rhythm


async def crowd_of_writers(store):
    """Writers that have written more at once than starts at once."""
    writers = []
    for number in range(CROWD):
        info = await store.create(f"s{number}")
        writers.append(StreamWriter(store, info.id, info=info))
    for writer in writers:
        await writer.write(b"a token")
    return writers


async def test_the_first_starts_do_not_wait_and_the_others_start_together():
    started = []
    rhythm = pace_at_one_moment()
    for number in range(CROWD):
        rhythm.start(lambda number=number: started.append(number))
    assert started == list(range(FREE_STARTS))
    while len(started) == FREE_STARTS:
        await asyncio.sleep(0)
    assert started == list(range(CROWD))  # in one turn of the loop, and in order


async def test_nothing_waits_in_a_quiet_process(endless_pace):
    loop = asyncio.get_running_loop()
    moment = loop.time()
    started = []
    rhythm = Pace(loop)
    rhythm._clock = lambda: moment
    for number in range(CROWD):
        moment += pace.PACE_SECONDS / FREE_STARTS
        rhythm.start(lambda number=number: started.append(number))
        assert started[-1] == number


async def test_a_busy_process_stays_in_step():
    """After many have started together, the next one waits like those before it."""
    started = []
    rhythm = pace_at_one_moment()

    def last_of_a_crowd():
        rhythm.start(lambda: started.append("next"))
        started.append("crowd")

    for _ in range(CROWD - 1):
        rhythm.start(lambda: None)
    rhythm.start(last_of_a_crowd)
    while not started:
        await asyncio.sleep(0)
    assert started == ["crowd"]
    while len(started) < 2:
        await asyncio.sleep(0)


async def test_a_flush_and_a_close_do_not_wait_for_the_pace(endless_pace):
    async with CountingStore() as store:
        writers = await crowd_of_writers(store)
        for writer in writers[:-1]:
            await writer.flush()
        await writers[-1].aclose(State.DONE)
        for number in range(CROWD):
            assert (await store.info(f"s{number}")).tail == len(b"a token")


async def test_a_full_buffer_does_not_wait_for_the_pace(endless_pace):
    async with CountingStore() as store:
        await crowd_of_writers(store)
        info = await store.create("long")
        writer = StreamWriter(store, info.id, info=info, max_buffer_bytes=10)
        for _ in range(100):
            await writer.write(b"0123456789")
        await writer.flush()
        assert (await store.info("long")).tail == 1000


async def test_what_a_flush_has_appended_is_not_appended_again():
    """Not even by an empty append, which would be a heartbeat that nobody asked for."""
    async with CountingStore() as store:
        writers = await crowd_of_writers(store)
        await asyncio.gather(*[writer.flush() for writer in writers])
        late = []
        pace_here().start(lambda: late.append(True))
        while not late:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert store.appends == CROWD


async def test_a_heartbeat_does_not_wait_for_the_pace(endless_pace):
    async with CountingStore() as store:
        await crowd_of_writers(store)
        info = await store.create("silent")
        async with StreamWriter(store, info.id, info=info, heartbeat=0.01):
            await store.wait("silent", version=info.version, timeout=60)
            assert (await store.info("silent")).version > info.version


async def test_every_chunk_of_a_crowd_arrives():
    async with CountingStore() as store:
        writers = await crowd_of_writers(store)
        for _ in range(50):
            for writer in writers:
                await writer.write(b"more")
            await asyncio.sleep(0.001)
        for writer in writers:
            await writer.aclose(State.DONE)
        for number in range(CROWD):
            text = b"".join([record.data async for record in follow(store, f"s{number}")])
            assert text == b"a token" + 50 * b"more"


def test_an_event_loop_is_not_kept_by_its_pace():
    async def write():
        async with MemoryStreamStore() as store:
            writers = await crowd_of_writers(store)
            for writer in writers:
                await writer.aclose(State.DONE)
            return weakref.ref(asyncio.get_running_loop())

    loop = asyncio.run(write())
    gc.collect()
    assert loop() is None
