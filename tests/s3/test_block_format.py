"""The format of an object."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstores import CorruptData, Record, State, StreamInfo
from streamstores.backends._s3 import block_format
from streamstores.backends._s3.block_format import Block, Layout

NOON = datetime(2026, 5, 4, 12, 0, 0, 123_456, tzinfo=timezone.utc)
INFO = StreamInfo(
    "a/é\u2028",
    State.ERROR,
    20,
    2**52,
    "no\x00",
    {"k\x00": "\U0001f986"},
    NOON,
    NOON,
    2.5,
    NOON,
)
chunk_lists = st.lists(st.binary(min_size=1, max_size=50), max_size=20)


def block_of(chunks: list[bytes]) -> Block:
    return Block(
        block_format.SEGMENT,
        INFO.id,
        "g",
        7,
        3,
        "nonce",
        INFO,
        NOON,
        99,
        Layout(7, "key", ((0, 0), (9, 12))),
        1.5,
        tuple(map(len, chunks)),
        b"".join(chunks),
    )


@given(chunk_lists)
def test_a_block_comes_back_as_it_was(chunks: list[bytes]) -> None:
    block = block_of(chunks)
    assert block_format.decode(block_format.encode(block), "k") == block
    assert [record.data for record in block.records()] == chunks


@given(chunk_lists, chunk_lists)
def test_a_sequence_of_blocks_is_split_again(one: list[bytes], other: list[bytes]) -> None:
    row = [block_of(one), block_of(other)]
    assert block_format.decode_all(b"".join(map(block_format.encode, row)), "k") == row


def test_a_header_is_read_without_the_payload() -> None:
    data = block_format.encode(block_of([b"x" * 1000]))
    header = block_format.decode_header(data[:-900], "k")
    assert header == block_of([b"x" * 1000])._replace(payload=b"")


@given(st.data())
def test_a_changed_payload_or_a_cut_object_is_corrupt(data: st.DataObject) -> None:
    good = block_format.encode(block_of([b"some", b"bytes"]))
    at = data.draw(st.integers(len(good) - 9, len(good) - 1))
    changed = bytearray(good)
    changed[at] ^= 1
    for bad in (bytes(changed), good[:at], good + b"x"):
        with pytest.raises(CorruptData, match="'k'"):
            block_format.decode(bad, "k")


@given(st.binary(max_size=100))
def test_bytes_that_are_not_a_block_are_corrupt(junk: bytes) -> None:
    for bad in (junk, b"STS1" + junk, b"STS1\0\0\0\2[]" + junk, b"STS1\0\0\0\2{}" + junk):
        with pytest.raises(CorruptData):
            block_format.decode(bad, "k")


def test_a_segment_that_s3_took_after_the_expiry_is_void() -> None:
    block = block_of([])
    assert block.is_void(NOON.timestamp() + 0.1)
    assert not block.is_void(NOON.timestamp() - 0.1)
    assert not block._replace(was_expiring_at=None).is_void(1e12)


def test_a_page_is_cut_from_records() -> None:
    records = [Record(0, b"abc"), Record(3, b"def"), Record(6, b"g")]
    assert block_format.cut(records, 1, 100) == [Record(1, b"bc"), *records[1:]]
    assert block_format.cut(records, 0, 6) == records[:2]
    assert block_format.cut(records, 0, 1) == records[:1]
    assert block_format.cut(records, 3, 3) == records[1:2]
