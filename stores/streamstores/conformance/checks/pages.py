"""Clause 3: order and bytes."""

from __future__ import annotations

from itertools import pairwise

from streamstores.conformance.assertions import content, equal, raises, read_all
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import InvalidRequest, OffsetOutOfRange
from streamstores.store import Record

CHUNKS = (b"a", b"bcd", b"ef", b"ghijk", b"l", b"mnopqrs")
WHOLE = b"".join(CHUNKS)
ENDS = (1, 4, 6, 11, 12, 19)
# Around the bounds of 32-bit integers, of doubles (Lua, JavaScript) and of 64-bit integers.
HUGE = (2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64, 10**30)


@check(3)
async def check_bytes_come_back_exactly(harness: Harness) -> None:
    """NUL, invalid UTF-8, line ends, every byte value and single bytes are returned exactly."""
    store = await harness.open()
    stream_id = harness.new_id()
    chunks = [
        b"\x00",
        b"\x00\x00\x00",
        b"\xff\xfe\x80",
        b"\xed\xa0\x80",
        bytes(range(256)),
        b"\r\n\r\n",
        b" ",
        "é𝄞\u2028".encode(),
        "𝄞".encode()[:2],
        b"'; DROP TABLE records; --",
        b"\\x00 \\0 %s {}",
    ]
    chunks += [bytes([value]) for value in range(256)]
    await store.create(stream_id, *chunks[:3])
    await store.append(stream_id, *chunks[3:])
    records, _ = await read_all(store, stream_id)
    equal([record.data for record in records], chunks, "records")


@check(3)
async def check_large_records_come_back_exactly(harness: Harness) -> None:
    """Records of the largest size are returned exactly, over several pages."""
    store = await harness.open()
    stream_id = harness.new_id()
    size = store.limits.record_bytes
    pattern = bytes(range(251)) * (size // 251 + 1)
    chunks = [pattern[:size], pattern[1:size], pattern[7 : size - 100], b"end"]
    await store.create(stream_id, chunks[0])
    for chunk in chunks[1:]:
        await store.append(stream_id, chunk)
    records, info = await read_all(store, stream_id)
    equal([len(record.data) for record in records], [*map(len, chunks)], "sizes")
    equal([record.data for record in records] == chunks, True, "bytes are equal")
    equal(info.tail, sum(map(len, chunks)), "tail")
    middle = await store.read(stream_id, size // 2)
    equal(middle.records[0] == Record(size // 2, pattern[size // 2 : size]), True, "the rest")


@check(3)
async def check_read_from_every_offset(harness: Harness) -> None:
    """A read may start anywhere; inside a record it begins with the rest of the record."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, *CHUNKS[:2])
    await store.append(stream_id, *CHUNKS[2:])
    for offset in range(len(WHOLE) + 1):
        page = await store.read(stream_id, offset)
        starts = [offset, *(end for end in ENDS if end > offset)]
        expected = [Record(a, WHOLE[a:b]) for a, b in pairwise(starts)]
        equal(page.records, expected, f"records from {offset}")
        equal((page.next_offset, page.info.tail), (19, 19), f"end of the page from {offset}")


@check(3)
async def check_pages_hold_whole_records_and_at_least_one(harness: Harness) -> None:
    """A page holds whole records of at most max_bytes together, or a single longer record."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, *CHUNKS)
    for offset in range(len(WHOLE)):
        for max_bytes in (*range(1, 21), 1000, 2**40):
            page = await store.read(stream_id, offset, max_bytes=max_bytes)
            what = f"page from {offset} with max_bytes={max_bytes}"
            assert page.records, f"{what} is empty before the tail"
            equal(page.records[0].offset, offset, f"{what}: first offset")
            size = page.next_offset - offset
            if size > max_bytes:
                equal(len(page.records), 1, f"{what}: records in {size} bytes")
            for record in page.records:
                assert record.end in ENDS, f"{what}: {record} does not end where it was written"
            equal(page.next_offset, page.records[-1].end, f"{what}: next_offset")
            data = b"".join(record.data for record in page.records)
            equal(data, WHOLE[offset : page.next_offset], f"{what}: bytes")


@check(3)
async def check_next_offset_is_the_tail_exactly_at_the_end(harness: Harness) -> None:
    """Paging by next_offset returns every byte once and reaches the tail only at the end."""
    store = await harness.open()
    stream_id = harness.new_id()
    chunks = [b"%04d" % number * (number % 5 + 1) for number in range(200)]
    await store.create(stream_id, *chunks)
    whole = b"".join(chunks)
    for max_bytes in (1, 7, 64, 1000, len(whole) - 1, len(whole), len(whole) + 1):
        records, info = await read_all(store, stream_id, max_bytes=max_bytes)
        equal([record.data for record in records], chunks, f"records, max_bytes={max_bytes}")
        equal(info.tail, len(whole), "tail")


@check(3)
async def check_page_at_the_tail_is_empty(harness: Harness) -> None:
    """At the tail, and in an empty stream, a page has no records and next_offset == tail."""
    store = await harness.open()
    for chunks, state in (((), "streaming"), ((b"abc", b"d"), "streaming"), ((b"x",), "done")):
        stream_id = harness.new_id()
        info = await store.create(stream_id, *chunks, state=state)  # type: ignore[arg-type]
        page = await store.read(stream_id, info.tail, max_bytes=1)
        equal(len(page.records), 0, f"records of the page at the tail {info.tail}")
        equal((page.next_offset, page.info), (info.tail, info), f"page at the tail {info.tail}")


@check(3)
async def check_offset_beyond_the_tail_is_out_of_range(harness: Harness) -> None:
    """A read from any offset beyond the tail raises OffsetOutOfRange, with .tail."""
    store = await harness.open()
    for chunks, state in (((), "streaming"), ((b"abc", b"d"), "streaming"), ((b"x",), "done")):
        stream_id = harness.new_id()
        info = await store.create(stream_id, *chunks, state=state)  # type: ignore[arg-type]
        for offset in (info.tail + 1, info.tail + 1000, *HUGE):
            with raises(OffsetOutOfRange, f"read from {offset} of {info.tail}") as caught:
                await store.read(stream_id, offset)
            equal(caught.error.tail, info.tail, "OffsetOutOfRange.tail")


@check(3)
async def check_reads_refuse_nonsense(harness: Harness) -> None:
    """An offset or size of a wrong type or sign raises InvalidRequest."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, b"abc")
    for offset in (-1, -(2**70), 1.0, "0", None, True):
        with raises(InvalidRequest, f"offset {offset!r}"):
            await store.read(stream_id, offset)  # type: ignore[arg-type]  # on purpose
    for max_bytes in (0, -1, 1.0, "9", None):
        with raises(InvalidRequest, f"max_bytes {max_bytes!r}"):
            await store.read(stream_id, max_bytes=max_bytes)  # type: ignore[arg-type]  # on purpose


@check(3)
async def check_mutable_buffers_are_copied(harness: Harness) -> None:
    """A bytearray or memoryview changed after the call does not change the stream."""
    store = await harness.open()
    stream_id = harness.new_id()
    buffer = bytearray(b"first")
    await store.create(stream_id, buffer)  # type: ignore[arg-type]  # allowed
    buffer[:] = b"XXXXX"
    buffer = bytearray(b"second")
    await store.append(stream_id, memoryview(buffer)[:3], buffer)  # type: ignore[arg-type]  # allowed
    buffer[:] = b"YYYYYY"
    records, _ = await read_all(store, stream_id)
    equal([record.data for record in records], [b"first", b"sec", b"second"], "records")


@check(3)
async def check_a_page_can_be_changed_by_its_reader(harness: Harness) -> None:
    """A reader that changes the list of records in a page does not change the stream."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, b"abc", b"def")
    for offset in (0, 1):
        page = await store.read(stream_id, offset)
        page.records.clear()
    equal(await content(store, stream_id), b"abcdef", "bytes")


@check(3)
async def check_records_tile_a_long_stream(harness: Harness) -> None:
    """Many appends of different sizes make a stream without gaps, the same from any offset."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id)
    whole = b""
    for number in range(120):
        chunks = [b"%d;" % (number * 10 + n) * (number % 4 + 1) for n in range(number % 3 + 1)]
        info = await store.append(stream_id, *chunks, at=len(whole))
        whole += b"".join(chunks)
        equal(info.tail, len(whole), "tail")
    for offset in (0, 1, 2, 100, len(whole) // 2, len(whole) - 1):
        equal(await content(store, stream_id, offset), whole[offset:], f"bytes from {offset}")
