"""What the tables hold: exact bytes, pages that read no more than they give, and sweeping."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit

import asyncpg
import pytest

from streamstores import CorruptData, PostgresStreamStore, StreamNotFound, follow
from streamstores.backends._postgres import sweeper
from tests.postgres.conftest import new_id, schema_of, table, until
from tests.services.postgres import with_options


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStreamStore]:
    async with PostgresStreamStore.from_url(url) as store:
        yield store


async def rows(admin: asyncpg.Connection, url: str) -> tuple[int, int]:
    """How many rows there are of streams that are gone, and of records without a stream."""
    streams, records = table(url, "streams"), table(url, "records")
    row = await admin.fetchrow(
        f"SELECT (SELECT count(*) FROM {streams} WHERE id IS NULL), (SELECT count(*) "
        f"FROM {records} WHERE NOT EXISTS "
        f"(SELECT FROM {streams} WHERE key = stream_key AND id IS NOT NULL))"
    )
    return row[0], row[1]


async def test_pages_of_any_size_from_any_offset_give_the_bytes_back(store):
    """Against the plain concatenation of what was appended."""
    rng = random.Random(7)
    stream_id, chunks = new_id(), []
    await store.create(stream_id)
    for _ in range(40):
        batch = [rng.randbytes(rng.choice([1, 2, 7, 100, 3_000, 12_000])) for _ in range(5)]
        await store.append(stream_id, *batch)
        chunks += batch
    whole = b"".join(chunks)
    ends = {sum(map(len, chunks[: n + 1])) for n in range(len(chunks))}
    for _ in range(150):
        offset, max_bytes = rng.randrange(len(whole)), rng.choice([1, 50, 20_000, 10**9])
        page = await store.read(stream_id, offset, max_bytes=max_bytes)
        data = b"".join(record.data for record in page.records)
        assert data == whole[offset : page.next_offset]
        assert len(data) <= max_bytes or len(page.records) == 1
        assert {record.end for record in page.records} <= ends
        following = min(end for end in [*ends, 2**60] if end > page.next_offset)
        assert following - offset > max_bytes, "nothing that fits was left out"


@pytest.mark.parametrize(("size", "rows"), [(20, 1), (4_096, 1), (10_000, 8), (65_536, 8)])
async def test_small_records_come_in_one_row_and_big_ones_in_a_row_each(store, size, rows):
    stream_id = new_id()
    await store.create(stream_id, *[b"x" * size] * 8)
    assert len(await store._database.run(store._sql.read, stream_id, 0, 2**20)) == rows
    page = await store.read(stream_id)
    assert page.records == [(size * number, b"x" * size) for number in range(8)]


@pytest.mark.parametrize("size", [20, 10_000])
@pytest.mark.parametrize("lost", [0, 3, 7])
async def test_a_record_that_is_missing_is_corrupt_data(store, url, admin, size, lost):
    stream_id = new_id()
    await store.create(stream_id, *[b"x" * size] * 8)
    await admin.execute(
        f"DELETE FROM {table(url, 'records')} USING {table(url, 'streams')} "
        "WHERE stream_key = key AND id = $1 AND end_offset = $2",
        stream_id,
        size * (lost + 1),
    )
    with pytest.raises(CorruptData):
        async for _ in follow(store, stream_id):
            pass


async def test_a_new_connection_asks_the_server_about_no_types(url):
    """An array of text is the only one that asyncpg knows. Any other costs three statements on
    each new connection, which take longer than the first append."""
    statements: list[str] = []

    async def listen_in(connection: asyncpg.Connection) -> None:
        connection.add_query_logger(lambda query: statements.append(query.query))

    plain = urlsplit(url)._replace(query="").geturl()
    schema = schema_of(url)
    async with asyncpg.create_pool(plain, min_size=1, max_size=3, init=listen_in) as pool:
        for notify in (True, False):
            async with PostgresStreamStore(pool, schema=schema, notify=notify) as store:
                await _use_all(store)
    assert [each for each in statements if "CREATE" in each or "NOTIFY" in each.upper()]
    assert len(statements) > 20
    assert not [each for each in statements if "pg_type" in each.lower()]


async def _use_all(store: PostgresStreamStore) -> None:
    """Run every statement of a store, with a follower that is told of a change."""
    stream_id = new_id()
    await store.create(stream_id, b"1", b"2", ttl=60)
    follower = follow(store, stream_id)
    assert [(await follower.__anext__()).data for _ in range(2)] == [b"1", b"2"]
    await store.append(stream_id, b"3", b"4", at=2)
    await store.wait(stream_id, version=(await store.info(stream_id)).version, timeout=0.2)
    assert [each.id async for each in store.list(stream_id)] == [stream_id]
    await store.expire(stream_id)
    await follower.aclose()
    await store.delete(stream_id)
    await store.sweep()


async def test_a_page_of_a_long_stream_reads_no_more_blocks_than_it_needs(store, url, admin):
    stream_id = new_id()
    await store.create(stream_id)
    for _ in range(10):
        await store.append(stream_id, *[b"x" * 100] * 5_000)
    await admin.execute(f"ANALYZE {table(url, 'records')}")
    for offset in (0, 2_500_000, 4_999_000):
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {store._sql.read}"
        # With a plan for any parameters, as a statement has that has been prepared for long.
        async with admin.transaction():
            await admin.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            answer = await admin.fetchval(explain, stream_id, offset, 1_000)
        plan = json.loads(answer)[0]["Plan"]
        blocks = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        assert blocks < 40, f"{blocks} blocks for 10 records at {offset}"


async def test_an_append_rewrites_no_index_of_the_streams_row(url, admin):
    """It is a HOT update. Otherwise each append would leave a dead entry in every index,
    because it slides the expiry too."""
    stream_id, name = new_id(), table(url, "streams")
    counts = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_all_tables WHERE relid = $1::regclass"
    )
    async with PostgresStreamStore.from_url(with_options(url, max_size=1)) as store:
        await store.create(stream_id, ttl=3600)
        await admin.execute(f"VACUUM {name}")
        before = await admin.fetchrow(counts, name)
        for _ in range(300):
            await store.append(stream_id, b"token")
        await store._database.run("SELECT pg_stat_force_next_flush()")
        after = await admin.fetchrow(counts, name)
    updates, in_page = after[0] - before[0], after[1] - before[1]
    assert updates >= 300
    assert in_page >= 0.95 * updates


async def test_a_long_stream_is_gone_at_once_and_its_records_soon(store, url, admin):
    stream_id = new_id()
    await store.create(stream_id)
    for _ in range(3):
        await store.append(stream_id, *[b"x"] * (sweeper.RECORDS_AT_ONCE // 2))
    await store.delete(stream_id)
    with pytest.raises(StreamNotFound):
        await store.read(stream_id)
    await store.create(stream_id, b"new")
    assert (await store.read(stream_id)).records == [(0, b"new")]

    async def nothing_is_left() -> bool:
        return await rows(admin, url) == (0, 0)

    await until(nothing_is_left)
    assert (await store.read(stream_id)).records == [(0, b"new")]


async def test_an_expired_id_that_is_created_again_leaves_nothing_behind(store, url, admin):
    stream_id = new_id()
    await store.create(stream_id, b"old", expires_at=datetime.now(timezone.utc))
    await store.create(stream_id, b"newer")
    assert (await store.read(stream_id)).records == [(0, b"newer")]
    await store.sweep()
    assert await rows(admin, url) == (0, 0)
    assert (await store.info(stream_id)).tail == 5


async def test_a_stream_that_replaces_an_expired_one_is_always_younger(store, url, admin):
    """`created_at` tells them apart, even if the clock was set back in between."""
    stream_id = new_id()
    old = await store.create(stream_id, expires_at=datetime.now(timezone.utc))
    back = f"UPDATE {table(url, 'streams')} SET created_at = now() + interval '1 hour'"
    await admin.execute(f"{back} WHERE id = $1", stream_id)
    new = await store.create(stream_id)
    assert new.created_at > old.created_at + timedelta(minutes=59)
    assert await store.info(stream_id) == new


async def test_a_sweep_counts_expired_streams_and_spares_those_whose_expiry_moved(
    store, url, admin
):
    await store.sweep()
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    kept, moved = new_id(), new_id()
    for stream_id in (kept, moved):
        await store.create(stream_id, ttl=600)
    await store.expire(kept)
    # As if the ends that they had at first had come.
    due = f"UPDATE {table(url, 'streams')} SET due_at = now() WHERE id = ANY($1)"
    await admin.execute(due, [kept, moved])
    await asyncio.gather(*(store.create(new_id(), b"x", expires_at=past) for _ in range(5)))
    assert [await store.sweep(limit=3), await store.sweep(), await store.sweep()] == [3, 2, 0]
    assert (await store.info(kept)).expires_at is None
    assert (await store.info(moved)).ttl == 600
    # Nearer than the time to which the sweep put it off.
    await store.expire(moved, expires_at=past)
    assert await store.sweep() == 1


async def test_sweeps_at_once_count_each_stream_once(store, url):
    await store.sweep()
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    await asyncio.gather(*(store.create(new_id(), expires_at=past) for _ in range(60)))
    async with PostgresStreamStore.from_url(url) as other:
        counts = await asyncio.gather(*(each.sweep() for each in (store, other) * 4))
    assert sum(counts) == 60


async def test_expired_streams_are_swept_without_a_call(store, url, admin, monkeypatch):
    monkeypatch.setattr(sweeper, "INTERVAL_SECONDS", 0.05)
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    async with PostgresStreamStore.from_url(url) as sweeping_store:
        await sweeping_store.create(new_id(), b"x", expires_at=past)

        async def nothing_is_left() -> bool:
            due = f"SELECT count(*) FROM {table(url, 'streams')} WHERE expires_at < now()"
            return await rows(admin, url) == (0, 0) and not await admin.fetchval(due)

        await until(nothing_is_left)


@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=timezone.utc),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-5))),
        datetime(9999, 1, 1, tzinfo=timezone.utc),
        datetime(2100, 1, 1, 12, 30, 1, 7, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    ],
    ids=["last", "beyond the last", "far", "elsewhere"],
)
async def test_an_end_however_far_is_kept_to_the_microsecond(store, moment):
    stream_id = new_id()
    last = datetime.max.replace(tzinfo=timezone.utc)
    expected = last if moment.replace(tzinfo=timezone.utc) == last else moment
    assert (await store.create(stream_id, expires_at=moment)).expires_at == expected
    assert (await store.info(stream_id)).expires_at == expected
    assert (await store.append(stream_id, b"1")).expires_at == expected


async def test_an_end_in_the_year_one_ends_the_stream(store):
    stream_id = new_id()
    await store.create(stream_id)
    await store.expire(stream_id, expires_at=datetime.min.replace(tzinfo=timezone.utc))
    with pytest.raises(StreamNotFound):
        await store.info(stream_id)


async def test_every_id_is_listed_under_its_own_prefixes_only(store):
    base = new_id()
    ids = {
        base + rest for rest in ("", "\U0010ffff", "\U0010ffff" * 10, "a", "b%_\\", "é", "'")
    }
    ids |= {base[:-1] + chr(ord(base[-1]) + 1)}
    for each in ids:
        await store.create(each)
    for prefix in (*ids, base[:-1], base + "\0", base + "\n"):
        listed = [each.id async for each in store.list(prefix)]
        assert sorted(listed) == sorted(each for each in ids if each.startswith(prefix))


async def test_a_listing_of_many_pages_holds_every_id_once(store):
    base = new_id()
    ids = [f"{base}/{number}" for number in range(1_050)]
    for start in range(0, len(ids), 50):
        await asyncio.gather(*(store.create(each) for each in ids[start : start + 50]))
    listed = [each.id async for each in store.list(base)]
    assert sorted(listed) == sorted(ids)
