"""The calls of a store, a writer and a follower, and what they return."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from streamstores import (
    Conflict,
    Follower,
    LimitExceeded,
    OffsetOutOfRange,
    Page,
    ProducerLost,
    Record,
    State,
    StreamClosed,
    StreamExists,
    StreamInfo,
    StreamStore,
    StreamWriter,
    follow,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type


async def mutate(store: StreamStore) -> None:
    info = await store.create("a", b"first", b"second", ttl=60, attributes={"model": "small"})
    assert_type(info, StreamInfo)
    await store.create("b", expires_at=datetime.now(timezone.utc), state="stopped")
    info = await store.append("a", b"more", at=info.tail, version=info.version)
    info = await store.append("a", b"last", state="done", attributes={})
    info = await store.append("a", b"last", state=State.DONE)
    info = await store.mark_done("a", "error", error="why", version=info.version)
    assert_type(await store.expire("a", 60), StreamInfo)
    assert_type(await store.sweep(limit=10), int)
    assert_type(await store.delete("a"), None)

    await store.append("a", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await store.append("a", state="finished")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await store.append("a", attributes={"n": 1})  # type: ignore[dict-item]  # pyright: ignore[reportArgumentType]
    await store.create("a", ttl="60")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def look(store: StreamStore) -> None:
    page = await store.read("a", 5, max_bytes=100)
    assert_type(page, Page)
    assert_type(page.records, list[Record])
    records, next_offset, info = page
    assert_type(next_offset, int)
    assert_type(info.state, State)
    assert_type(info.attributes, Mapping[str, str])
    assert_type(info.expires_at, datetime | None)
    offset, data = records[0]
    assert_type(offset, int)
    assert_type(data, bytes)
    assert_type(records[0].end, int)
    assert_type(await store.wait("a", version=info.version, timeout=5), StreamInfo)
    assert_type(store.list("prefix/"), AsyncIterator[StreamInfo])
    async for each in store.list():
        assert_type(each, StreamInfo)
    if "durable" in store.capabilities and store.limits.record_bytes > 1000:
        print(store.limits.poll_interval)


async def write(store: StreamStore) -> StreamInfo | None:
    async with StreamWriter(store, "a", heartbeat=5) as writer:
        await writer.write(b"chunk")
        await writer.write("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return writer.info


async def read_all(store: StreamStore) -> bytes:
    follower = follow(store, "a", 10, producer_timeout=15)
    assert_type(follower, Follower)
    data = b""
    async for record in follower:
        assert_type(record, Record)
        data += record.data
    assert_type(follower.info, StreamInfo | None)
    return data


async def handle_errors(store: StreamStore) -> None:
    try:
        await store.append("a", b"x")
    except (StreamClosed, Conflict, StreamExists, ProducerLost) as exc:
        assert_type(exc.info, StreamInfo)
    except OffsetOutOfRange as exc:
        assert_type(exc.tail, int)
    except LimitExceeded as exc:
        print(exc.limit, exc.value)
