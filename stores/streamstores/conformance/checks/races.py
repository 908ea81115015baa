"""Clause 2: linearizable per stream."""

from __future__ import annotations

import asyncio
from typing import Any

from streamstores.conformance.assertions import content, equal, outcome, raises, read_all
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import Conflict, StreamExists, StreamNotFound
from streamstores.store import State, StreamInfo

ROUNDS = 8
RACERS = 12


def winners_of(outcomes: list[Any], loss: type[Exception], what: str) -> list[StreamInfo]:
    """The single info among the outcomes, in a list; all others must be a `loss`."""
    won = [each for each in outcomes if isinstance(each, StreamInfo)]
    lost = [each for each in outcomes if isinstance(each, loss)]
    strange = [each for each in outcomes if each not in won and each not in lost]
    equal(strange, [], f"{what}: outcomes that are neither a win nor {loss.__name__}")
    equal(len(won), 1, f"{what}: winners of {len(outcomes)}")
    return won


@check(2)
async def check_a_returned_mutation_is_seen_by_all(harness: Harness) -> None:
    """After a mutation has returned, every read, info and wait of any store object sees it."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    equal(await other.info(stream_id), info, "info after create")
    for number in range(30):
        writer, reader = (store, other) if number % 2 else (other, store)
        before = info
        info = await writer.append(stream_id, b"%03d" % number, attributes={"n": str(number)})
        page = await reader.read(stream_id, info.tail - 3)
        equal((page.info, page.records[0].data), (info, b"%03d" % number), "read")
        equal(await reader.info(stream_id), info, "info")
        waited = await reader.wait(stream_id, version=before.version, timeout=60)
        equal(waited, info, "wait")
    await store.delete(stream_id)
    with raises(StreamNotFound, "info after delete"):
        await other.info(stream_id)


@check(2)
async def check_one_of_racing_appends_at_an_offset_wins(harness: Harness) -> None:
    """Exactly one of several racing appends with the same at= wins; the others get Conflict."""
    stores = [await harness.open(), await harness.open()]
    stream_id = harness.new_id()
    info = await stores[0].create(stream_id)
    expected = b""
    for _ in range(ROUNDS):
        racing = [
            outcome(stores[n % 2].append(stream_id, b"<%02d>" % n, at=info.tail))
            for n in range(RACERS)
        ]
        outcomes = await asyncio.gather(*racing)
        (info,) = winners_of(outcomes, Conflict, f"append at={info.tail}")
        winner = next(n for n, each in enumerate(outcomes) if isinstance(each, StreamInfo))
        expected += b"<%02d>" % winner
        for each in outcomes:
            if isinstance(each, Conflict):
                equal(each.info.tail, info.tail, "Conflict.info.tail")
    equal(await content(stores[1], stream_id), expected, "bytes: the winners' only")


@check(2)
async def check_one_of_racing_appends_with_a_version_wins(harness: Harness) -> None:
    """Exactly one of several racing appends with the same version= wins: takeovers are safe."""
    stores = [await harness.open(), await harness.open()]
    stream_id = harness.new_id()
    info = await stores[0].create(stream_id)
    for _ in range(ROUNDS):
        racing = [
            outcome(
                stores[n % 2].append(
                    stream_id, version=info.version, attributes={"producer": str(n)}
                )
            )
            for n in range(RACERS)
        ]
        outcomes = await asyncio.gather(*racing)
        (info,) = winners_of(outcomes, Conflict, "takeover")
        winner = next(n for n, each in enumerate(outcomes) if isinstance(each, StreamInfo))
        equal(dict(info.attributes), {"producer": str(winner)}, "the winner's attributes")
        equal(await stores[1].info(stream_id), info, "info after the race")


@check(2)
async def check_one_of_racing_heartbeats_with_a_version_wins(harness: Harness) -> None:
    """Exactly one of several racing heartbeats with the same version= wins."""
    stores = [await harness.open(), await harness.open()]
    stream_id = harness.new_id()
    info = await stores[0].create(stream_id)
    for _ in range(ROUNDS):
        racing = [
            outcome(stores[n % 2].append(stream_id, version=info.version))
            for n in range(RACERS)
        ]
        (info,) = winners_of(await asyncio.gather(*racing), Conflict, "heartbeat")


@check(2)
async def check_one_of_racing_creates_wins(harness: Harness) -> None:
    """Exactly one of several racing creates wins; the others are shown the whole winner."""
    stores = [await harness.open(), await harness.open()]
    for _ in range(ROUNDS):
        stream_id = harness.new_id()
        racing = [
            outcome(
                stores[n % 2].create(
                    stream_id, b"by ", b"%02d" % n, attributes={"by": str(n)}, state="done"
                )
            )
            for n in range(RACERS)
        ]
        outcomes = await asyncio.gather(*racing)
        (info,) = winners_of(outcomes, StreamExists, "create")
        for each in outcomes:
            if isinstance(each, StreamExists):
                equal(each.info, info, "StreamExists.info")
        winner = info.attributes["by"]
        equal(await content(stores[1], stream_id), b"by %02d" % int(winner), "bytes")


@check(2)
async def check_a_stream_is_never_seen_half_created(harness: Harness) -> None:
    """A reader that races with create finds either no stream or the whole stream."""
    store, other = await harness.open(), await harness.open()
    for _ in range(15):
        stream_id = harness.new_id()

        async def look(stream_id: str = stream_id) -> None:
            while True:
                page = await outcome(other.read(stream_id))
                if not isinstance(page, StreamNotFound):
                    break
                await asyncio.sleep(0)
            assert not isinstance(page, Exception), f"read raised {page!r}"
            data = b"".join(record.data for record in page.records)
            seen = (data, page.info.state, dict(page.info.attributes), page.info.ttl)
            equal(seen, (b"hello", State.STOPPED, {"a": "b"}, 1000.0), "the first sight")

        looking = harness.start(look())
        await asyncio.sleep(0)
        await store.create(
            stream_id, b"hel", b"lo", state="stopped", attributes={"a": "b"}, ttl=1000
        )
        await looking


@check(2)
async def check_racing_appends_all_land(harness: Harness) -> None:
    """Racing appends without at= and version= all land, each whole and exactly once."""
    stores = [await harness.open(), await harness.open()]
    stream_id = harness.new_id()
    await stores[0].create(stream_id)
    # Of different lengths, so that a tail that belongs to another append is noticed.
    appends = [(b"%02da" % n, b"%02db" % n * (n + 1)) for n in range(40)]
    infos = await asyncio.gather(
        *(stores[n % 2].append(stream_id, *chunks) for n, chunks in enumerate(appends))
    )
    records, info = await read_all(stores[0], stream_id)
    pairs = list(zip(records[::2], records[1::2], strict=True))
    landed = sorted((first.data, second.data) for first, second in pairs)
    equal(landed, sorted(appends), "the pairs of records")
    ends = {second.data: second.end for _, second in pairs}
    for chunks, result in zip(appends, infos, strict=True):
        equal(result.tail, ends[chunks[1]], "tail that the append returned")
    versions = {result.version for result in infos}
    equal(len(versions), len(appends), "different versions")
    equal(info.version, max(versions), "last version")


@check(2)
async def check_snapshots_are_consistent(harness: Harness) -> None:
    """The records, tail, version and attributes of a page belong to the same moment."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, attributes={"tail": "0"})

    async def write() -> None:
        for number in range(60):
            size = number % 7 + 1
            # Each append writes its own tail into the attributes, so that a mixture of two
            # versions shows.
            tail = (await store.info(stream_id)).tail + size
            await store.append(stream_id, b"x" * size, attributes={"tail": str(tail)})
        await store.mark_done(stream_id)

    writing = harness.start(write())
    seen_version = seen_tail = 0
    while True:
        page = await other.read(stream_id)
        equal(page.info.attributes["tail"], str(page.info.tail), "attributes and tail")
        equal(page.next_offset, page.info.tail, "records and tail")
        assert page.info.version >= seen_version, "the version went back"
        assert page.info.tail >= seen_tail, "the tail went back"
        seen_version, seen_tail = page.info.version, page.info.tail
        if page.info.state is State.DONE:
            break
        await asyncio.sleep(0)
    await writing


@check(2)
async def check_one_of_racing_deletes_wins(harness: Harness) -> None:
    """Exactly one of several racing deletes returns; the others raise StreamNotFound."""
    stores = [await harness.open(), await harness.open()]
    for _ in range(ROUNDS):
        stream_id = harness.new_id()
        await stores[0].create(stream_id, b"x")
        racing = [outcome(stores[n % 2].delete(stream_id)) for n in range(6)]
        outcomes = await asyncio.gather(*racing)
        equal(outcomes.count(None), 1, "deletes that returned")
        lost = [each for each in outcomes if isinstance(each, StreamNotFound)]
        equal(len(lost), 5, "deletes that raised StreamNotFound")


@check(2)
async def check_expire_racing_appends_loses_nothing(harness: Harness) -> None:
    """An expire that races appends undoes no bytes or versions and takes effect itself."""
    stores = [await harness.open(), await harness.open()]
    stream_id = harness.new_id()
    await stores[0].create(stream_id)

    async def keep_expiring() -> None:
        for number in range(30):
            await stores[1].expire(stream_id, 1000 + number)

    async def keep_appending() -> list[StreamInfo]:
        return [await stores[0].append(stream_id, b"%02d" % n, at=2 * n) for n in range(30)]

    _, infos = await asyncio.gather(keep_expiring(), keep_appending())
    info = await stores[0].info(stream_id)
    equal((info.tail, info.version, info.ttl), (60, infos[-1].version, 1029.0), "info")
    equal(
        await content(stores[1], stream_id), b"".join(b"%02d" % n for n in range(30)), "bytes"
    )
