"""From an offset to records: which objects hold them, with as few requests as possible."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator

from streamstores.backends._s3 import block_format
from streamstores.backends._s3.block_cache import Span
from streamstores.backends._s3.block_format import Block, Layout
from streamstores.backends._s3.known_streams import KnownStream, KnownStreams, RecordsMoved
from streamstores.errors import CorruptData
from streamstores.store import Record

_WINDOW = 8  # segments fetched at once


async def read_records(
    streams: KnownStreams, known: KnownStream, offset: int, max_bytes: int
) -> list[Record]:
    """The records from `offset`, which is before the tail; up to `max_bytes`, but at least one
    record.

    Cost if nothing is cached: for a packed stream, one GET of the bytes needed. Otherwise a
    GET for each segment, eight at a time, and to find the first about log2 of their number,
    fewer if they are of similar size. Raises `RecordsMoved`.
    """
    if known.layout is not None and known.layout.key is not None:
        found = await _from_packed_object(streams, known, known.layout, offset, max_bytes)
    elif known.number == 0:
        found = (await streams.fetch(known, 0)).records()
    else:
        found = await _from_segments(streams, known, offset, max_bytes)
    # A segment read just now may reach beyond the snapshot that the caller gets.
    tail = known.info.tail
    page = block_format.cut((each for each in found if each.offset < tail), offset, max_bytes)
    if not page or page[0].offset != offset:
        raise CorruptData(f"stream {known.info.id!r} lacks its records at {offset}")
    return page


async def all_blocks(streams: KnownStreams, known: KnownStream) -> AsyncIterator[Block]:
    """Every block of a stream in segments, from the head on. Raises `RecordsMoved`."""
    number = 0
    while number <= known.number:
        for block in await _fetch_window(streams, known, number, _WINDOW):
            yield block
        number += _WINDOW


async def _from_packed_object(
    streams: KnownStreams, known: KnownStream, layout: Layout, offset: int, max_bytes: int
) -> list[Record]:
    """The records of the blocks that hold the page, by one GET of their range."""
    assert layout.key is not None
    first = bisect_right(layout.blocks, offset, key=_offset_of) - 1
    last = bisect_left(layout.blocks, offset + max_bytes, key=_offset_of)
    last = min(max(last, first + 1), len(layout.blocks) - 1)
    begin, end = layout.blocks[first][1], layout.blocks[last][1]
    answer = await streams.storage.bucket.get(layout.key, first=begin, last=end - 1)
    if answer.is_missing:
        raise RecordsMoved
    found: list[Record] = []
    for block in block_format.decode_all(answer.body, layout.key):
        if block.generation != known.generation:
            raise CorruptData(f"the object {layout.key!r} belongs to another stream")
        found += block.records()
    return found


async def _from_segments(
    streams: KnownStreams, known: KnownStream, offset: int, max_bytes: int
) -> list[Record]:
    number = await _locate(streams, known, offset)
    found: list[Record] = []
    position = offset
    while number <= known.number and position < min(offset + max_bytes, known.info.tail):
        count = _guess_window(known, offset + max_bytes - position)
        for block in await _fetch_window(streams, known, number, count):
            found += [each for each in block.records() if each.end > position]
            position = max(position, block.end)
        number += count
    return found


async def _fetch_window(
    streams: KnownStreams, known: KnownStream, number: int, count: int
) -> list[Block]:
    numbers = range(number, min(number + count, known.number + 1))
    return await asyncio.gather(*(streams.fetch(known, each) for each in numbers))


def _guess_window(known: KnownStream, wanted: int) -> int:
    """How many segments hold `wanted` bytes, by the stream's average."""
    average = max(known.info.tail // (known.number + 1), 1)
    return max(1, min(_WINDOW, -(-wanted // average)))


async def _locate(streams: KnownStreams, known: KnownStream, offset: int) -> int:
    """The number of the segment that holds `offset`, searched between known spans."""
    newest = await streams.fetch(known, known.number)
    if offset >= newest.start:
        return known.number
    tries = 0
    while True:
        before, behind = streams.cache.around(known.generation, offset)
        if before is not None and offset < before.end:
            return before.number
        low = before or Span(-1, 0, 0)
        high = Span(newest.number, newest.start, newest.end)
        if behind is not None and behind.number < high.number:
            high = behind
        if high.number - low.number < 2:
            raise CorruptData(f"stream {known.info.id!r} has no segment at {offset}")
        await streams.fetch(known, _number_between(low, high, offset, tries))
        tries += 1


def _number_between(low: Span, high: Span, offset: int, tries: int) -> int:
    """A segment between two others that is likely to hold `offset`.

    It is chosen by proportion, and in every third try as the middle, so that uneven sizes
    cost no more than three times a bisection.
    """
    count = high.number - low.number - 1
    if tries % 3 == 2:
        return low.number + 1 + count // 2
    share = (offset - low.end) / max(high.start - low.end, 1)
    return low.number + 1 + min(int(share * count), count - 1)


def _offset_of(block: tuple[int, int]) -> int:
    return block[0]
