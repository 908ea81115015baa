"""Clause 8, the limits: a request at a limit is accepted, a request over it changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from streamstores.conformance.assertions import Call, content, equal, raises
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import InvalidRequest, LimitExceeded, StreamNotFound
from streamstores.limits import Limits
from streamstores.store import StreamStore


async def is_refused(
    call: Callable[[], Awaitable[object]], limit: int, value: int, what: str
) -> None:
    with raises(LimitExceeded, what) as caught:
        await call()
    equal((caught.error.limit, caught.error.value), (limit, value), f"{what}: limit and value")


async def both_refuse(
    harness: Harness, chunks: tuple[bytes, ...], options: dict[str, Any], limit: int, value: int
) -> None:
    """Check that create and append both refuse the request and change nothing."""
    store = await harness.open()
    missing, stream_id = harness.new_id(), harness.new_id()
    what = f"{value} of {limit}"
    info = await store.create(stream_id, b"abc", ttl=1000)
    await is_refused(
        lambda: store.append(stream_id, *chunks, **options), limit, value, f"append, {what}"
    )
    equal(await store.info(stream_id), info, "info after the refused append")
    equal(await content(store, stream_id), b"abc", "bytes after the refused append")
    if "error" in options:
        return
    await is_refused(
        lambda: store.create(missing, *chunks, **options), limit, value, f"create, {what}"
    )
    with raises(StreamNotFound, "info after the refused create"):
        await store.info(missing)


@check(8)
async def check_limits_are_declared(harness: Harness) -> None:
    """A store declares its Limits, with possible values."""
    limits = (await harness.open()).limits
    equal(isinstance(limits, Limits), True, f"limits is a Limits: {limits!r}")
    for name in ("stream_id_bytes", "record_bytes", "append_bytes", "append_records"):
        assert getattr(limits, name) >= 1, f"{name} is {getattr(limits, name)}"
    assert limits.append_bytes >= limits.record_bytes, "the longest record fits no append"
    assert limits.linger >= 0, f"linger is {limits.linger}"
    assert limits.poll_interval > 0, f"poll_interval is {limits.poll_interval}"


@check(8)
async def check_record_bytes(harness: Harness) -> None:
    """A record of record_bytes is accepted; a longer record is refused."""
    store = await harness.open()
    limit = store.limits.record_bytes
    stream_id = harness.new_id()
    await store.create(stream_id, b"x" * limit)
    await store.append(stream_id, b"y" * limit)
    equal((await store.info(stream_id)).tail, 2 * limit, "tail")
    await both_refuse(harness, (b"x" * (limit + 1),), {}, limit, limit + 1)
    await both_refuse(harness, (b"ok", b"x" * (limit + 1)), {"state": "done"}, limit, limit + 1)


@check(8)
async def check_append_bytes(harness: Harness) -> None:
    """Chunks of append_bytes together are accepted; a byte more is refused."""
    store = await harness.open()
    limits = store.limits
    count, rest = divmod(limits.append_bytes, limits.record_bytes)
    chunks = (b"x" * limits.record_bytes,) * count + ((b"x" * rest,) if rest else ())
    stream_id = harness.new_id()
    await store.create(stream_id)
    info = await store.append(stream_id, *chunks)
    equal(info.tail, limits.append_bytes, "tail")
    page = await store.read(stream_id, info.tail - 1)
    equal(page.records[0].data, b"x", "the last byte")
    over = limits.append_bytes + 1
    await both_refuse(harness, (*chunks, b"x"), {}, limits.append_bytes, over)


@check(8)
async def check_append_records(harness: Harness) -> None:
    """An append of append_records chunks is accepted; a chunk more is refused."""
    store = await harness.open()
    limit = store.limits.append_records
    stream_id = harness.new_id()
    await store.create(stream_id)
    info = await store.append(stream_id, *(b"x",) * limit)
    equal(info.tail, limit, "tail")
    await both_refuse(harness, (b"x",) * (limit + 1), {}, limit, limit + 1)


@check(8)
async def check_attributes_bytes(harness: Harness) -> None:
    """Attributes of attributes_bytes in UTF-8 are accepted; a byte more is refused."""
    store = await harness.open()
    limit = store.limits.attributes_bytes
    fitting = {"é": "é" * ((limit - 2) // 2 - 1), "": "xx" + "x" * (limit % 2)}
    equal(sum(len(f"{k}{v}".encode()) for k, v in fitting.items()), limit, "test data")
    stream_id = harness.new_id()
    await store.create(stream_id, attributes=fitting)
    equal(dict((await store.info(stream_id)).attributes), fitting, "after create")
    await store.append(stream_id, attributes=fitting)
    over = {**fitting, "": fitting[""] + "x"}
    await both_refuse(harness, (b"x",), {"attributes": over}, limit, limit + 1)


@check(8)
async def check_error_bytes(harness: Harness) -> None:
    """An error text of error_bytes in UTF-8 is accepted; a byte more is refused."""
    store = await harness.open()
    limit = store.limits.error_bytes
    text = "é" * (limit // 2) + "x" * (limit % 2)
    stream_id = harness.new_id()
    await store.create(stream_id)
    await store.append(stream_id, state="error", error=text)
    equal((await store.info(stream_id)).error, text, "error")
    options = {"state": "error", "error": text + "x"}
    await both_refuse(harness, (b"x",), options, limit, limit + 1)


async def every_call_refuses(
    store: StreamStore, stream_id: Any, kind: type[InvalidRequest], what: str
) -> None:
    """Check that each operation on the id raises `kind`."""
    calls: dict[str, Call] = {
        "create": lambda: store.create(stream_id),
        "append": lambda: store.append(stream_id, b"x"),
        "mark_done": lambda: store.mark_done(stream_id),
        "read": lambda: store.read(stream_id),
        "wait": lambda: store.wait(stream_id, version=0, timeout=0),
        "info": lambda: store.info(stream_id),
        "expire": lambda: store.expire(stream_id, 10),
        "delete": lambda: store.delete(stream_id),
    }
    for name, call in calls.items():
        with raises(kind, f"{name} of {what}"):
            await call()


@check(8)
async def check_stream_id_bytes(harness: Harness) -> None:
    """An id of stream_id_bytes in UTF-8 works everywhere; a longer id is refused."""
    store = await harness.open()
    limit = store.limits.stream_id_bytes
    start = harness.prefix
    room = limit - len(start)
    for filling in ("x" * room, "é" * (room // 2) + "x" * (room % 2)):
        stream_id = harness.own(start + filling)
        equal(len(stream_id.encode()), limit, "test data")
        info = await store.create(stream_id, b"abc")
        equal((info.id, await content(store, stream_id)), (stream_id, b"abc"), "stream")
        await store.expire(stream_id, 1000)
        await store.delete(stream_id)
        await every_call_refuses(store, stream_id + "x", LimitExceeded, "an id too long")
        await is_refused(lambda: store.info(stream_id + "é"), limit, limit + 2, "info")  # noqa: B023


@check(8)
async def check_impossible_ids_are_refused(harness: Harness) -> None:
    """Empty ids, control characters, lone surrogates and other types raise InvalidRequest."""
    store = await harness.open()
    for stream_id in ("", "a\x00b", "\n", "a\x7f", "\x85", "\ud800", None, 5, b"bytes"):
        await every_call_refuses(store, stream_id, InvalidRequest, repr(stream_id))
