"""Keys that no store wrote, or that lost a part, are reported and never read as a stream."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from streamstores import CorruptData, RedisStreamStore
from tests.services.redis import shared, with_own_prefix


async def test_keys_that_no_store_wrote_are_corrupt_data():
    url = with_own_prefix(shared("valkey"))
    prefix = url.rpartition("=")[2]
    async with RedisStreamStore(url) as store, Redis.from_url(url.split("?")[0]) as redis:
        await redis.set(f"{prefix}:{{text}}", "x")
        await redis.hset(f"{prefix}:{{hash}}", mapping={"state": "streaming", "tail": "x"})
        await store.create("records", b"abc", b"def", b"ghi")
        await store.create("evicted", b"abc")
        await store.create("odd", b"abc", state="done")
        await redis.xdel(f"{prefix}:{{records}}:records", "6-0")
        await redis.delete(f"{prefix}:{{evicted}}:records")
        await redis.hset(f"{prefix}:{{odd}}", "attributes", "no json")
        for stream_id, call in [
            ("text", store.info),
            ("text", store.append),
            ("text", store.read),
            ("hash", store.info),
            ("hash", store.append),
            ("hash", store.read),
            ("records", store.read),
            ("evicted", store.read),
            ("odd", store.append),
        ]:
            with pytest.raises(CorruptData):
                raise AssertionError(stream_id, await call(stream_id))
        await redis.set(f"{prefix}:{{wrong}}:records", "x")
        async for _ in store.list("e"):
            pass


async def test_an_append_to_a_corrupt_stream_changes_nothing():
    url = with_own_prefix(shared("valkey"))
    prefix = url.rpartition("=")[2]
    async with RedisStreamStore(url) as store, Redis.from_url(url.split("?")[0]) as redis:
        before = await store.create("a")
        await redis.set(f"{prefix}:{{a}}:records", "not a stream")
        with pytest.raises(CorruptData):
            await store.append("a", b"x", state="done")
        assert await store.info("a") == before
