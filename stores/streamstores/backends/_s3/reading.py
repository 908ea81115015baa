"""From an offset to records: which objects hold them, and no more requests than that."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator

from streamstores.backends._s3 import blocks
from streamstores.backends._s3.blocks import Block, Layout
from streamstores.backends._s3.streams import Known, Moved, Streams
from streamstores.backends._s3.transport import MISSING, Bucket
from streamstores.errors import CorruptData
from streamstores.store import Record

_WINDOW = 8  # segments fetched at once


async def read_records(
    streams: Streams, bucket: Bucket, known: Known, offset: int, max_bytes: int
) -> list[Record]:
    """The records from `offset`, which is before the tail, up to `max_bytes`, at least one.

    Cost, where nothing is cached: of a packed stream one GET of the bytes needed; else a GET
    for each segment, eight at a time, and to find the first about log2 of their number,
    less where they are of like size. Raises `Moved`.
    """
    if known.layout is not None and known.layout.key is not None:
        found = await _packed(bucket, known, known.layout, offset, max_bytes)
    elif known.number == 0:
        found = (await streams.fetch(known, 0)).records()
    else:
        found = await _segmented(streams, known, offset, max_bytes)
    tail = known.info.tail
    page = blocks.cut((each for each in found if each.offset < tail), offset, max_bytes)
    if not page or page[0].offset != offset:
        raise CorruptData(f"stream {known.info.id!r} lacks its records at {offset}")
    return page


async def all_blocks(streams: Streams, known: Known) -> AsyncIterator[Block]:
    """Every block of a stream in segments, from the head on. Raises `Moved`."""
    number = 0
    while number <= known.number:
        for block in await _window(streams, known, number, _WINDOW):
            yield block
        number += _WINDOW


async def _packed(
    bucket: Bucket, known: Known, layout: Layout, offset: int, max_bytes: int
) -> list[Record]:
    assert layout.key is not None
    first = bisect_right(layout.blocks, offset, key=_offset_of) - 1
    last = bisect_left(layout.blocks, offset + max_bytes, key=_offset_of)
    last = min(max(last, first + 1), len(layout.blocks) - 1)
    begin, end = layout.blocks[first][1], layout.blocks[last][1]
    answer = await bucket.get(layout.key, first=begin, last=end - 1)
    if answer.status == MISSING:
        raise Moved
    found: list[Record] = []
    for block in blocks.decode_all(answer.body, layout.key):
        if block.generation != known.generation:
            raise CorruptData(f"the object {layout.key!r} belongs to another stream")
        found += block.records()
    return found


async def _segmented(
    streams: Streams, known: Known, offset: int, max_bytes: int
) -> list[Record]:
    number = await _locate(streams, known, offset)
    found: list[Record] = []
    position = offset
    while number <= known.number and position < min(offset + max_bytes, known.info.tail):
        count = _guess_window(known, offset + max_bytes - position)
        for block in await _window(streams, known, number, count):
            found += [each for each in block.records() if each.end > position]
            position = max(position, block.end)
        number += count
    return found


async def _window(streams: Streams, known: Known, number: int, count: int) -> list[Block]:
    numbers = range(number, min(number + count, known.number + 1))
    return await asyncio.gather(*(streams.fetch(known, each) for each in numbers))


def _guess_window(known: Known, wanted: int) -> int:
    """How many segments hold `wanted` bytes, going by the stream's average."""
    average = max(known.info.tail // (known.number + 1), 1)
    return max(1, min(_WINDOW, -(-wanted // average)))


async def _locate(streams: Streams, known: Known, offset: int) -> int:
    """The number of the segment that holds `offset`."""
    newest = await streams.fetch(known, known.number)
    if offset >= newest.start:
        return known.number
    tries = 0
    while True:
        before, behind = streams.cache.around(known.generation, offset)
        low, low_end = (before[0], before[2]) if before is not None else (-1, 0)
        if before is not None and offset < low_end:
            return low
        high, high_start = newest.number, newest.start
        if behind is not None and behind[0] < high:
            high, high_start = behind[0], behind[1]
        if high - low < 2:
            raise CorruptData(f"stream {known.info.id!r} has no segment at {offset}")
        await streams.fetch(known, _between(low, low_end, high, high_start, offset, tries))
        tries += 1


def _between(
    low: int, low_end: int, high: int, high_start: int, offset: int, tries: int
) -> int:
    """A segment between two others, likely to hold `offset`: by proportion, and in every
    third try the middle, so that uneven sizes cost no more than a bisection, thrice."""
    count = high - low - 1
    if tries % 3 == 2:
        return low + 1 + count // 2
    share = (offset - low_end) / max(high_start - low_end, 1)
    return low + 1 + min(int(share * count), count - 1)


def _offset_of(block: tuple[int, int]) -> int:
    return block[0]
