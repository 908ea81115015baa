"""The blocks that were used last, and where in their streams other known blocks lie."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from typing import NamedTuple

from streamstores.backends._s3.block_format import Block

_CACHE_BYTES = 33_554_432
_BLOCK_OVERHEAD = 1024
_STREAMS = 10_000
_SPANS = 4096


class Span(NamedTuple):
    """The offsets from `start` to `end` that the block with this number holds."""

    number: int
    start: int
    end: int


class BlockCache:
    """At most 32 MiB of blocks, and the spans of at most 4096 blocks for each stream.

    Spans outlive their blocks: they tell a read at an offset which segments cannot hold it.
    """

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[str, int], Block] = OrderedDict()
        self._bytes = 0
        self._spans: OrderedDict[str, list[Span]] = OrderedDict()

    def get(self, generation: str, number: int) -> Block | None:
        block = self._blocks.get((generation, number))
        if block is not None:
            self._blocks.move_to_end((generation, number))
        return block

    def put(self, block: Block) -> None:
        """Keep a block, in place of an older block with its number."""
        key = (block.generation, block.number)
        before = self._blocks.pop(key, None)
        if before is not None:
            self._bytes -= len(before.payload) + _BLOCK_OVERHEAD
        self._blocks[key] = block
        self._bytes += len(block.payload) + _BLOCK_OVERHEAD
        # The newest stays whatever its size, because many pages may be cut from it.
        while self._bytes > _CACHE_BYTES and len(self._blocks) > 1:
            _, oldest = self._blocks.popitem(last=False)
            self._bytes -= len(oldest.payload) + _BLOCK_OVERHEAD
        self._put_span(block)

    def around(self, generation: str, offset: int) -> tuple[Span | None, Span | None]:
        """The last known span that begins at `offset` or before it, and the first that
        begins after it."""
        spans = self._spans.get(generation, [])
        at = bisect_right(spans, offset, key=_start_of)
        return (spans[at - 1] if at else None, spans[at] if at < len(spans) else None)

    def _put_span(self, block: Block) -> None:
        spans = self._spans.setdefault(block.generation, [])
        self._spans.move_to_end(block.generation)
        if len(self._spans) > _STREAMS:
            self._spans.popitem(last=False)
        span = Span(block.number, block.start, block.end)
        if not spans or spans[-1] < span:
            spans.append(span)
        elif not _has_number(spans, block.number):
            insort(spans, span)
        if len(spans) > _SPANS:
            del spans[1:-1:2]  # thinned evenly, so that a search still narrows down fast


def _has_number(spans: list[Span], number: int) -> bool:
    at = bisect_right(spans, Span(number, -1, -1))
    return at < len(spans) and spans[at].number == number


def _start_of(span: Span) -> int:
    return span.start
