"""The format of an object: a header, then the bytes of records. No request is made here.

A *block* is `STS1`, the length of the header, the header as JSON, then the payload. Every
object is one block, except a packed stream, which is a sequence of them.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, cast

from streamstores.errors import CorruptData
from streamstores.limits import from_microseconds, to_microseconds
from streamstores.mutations import records_at
from streamstores.store import Record, StreamInfo
from streamstores.stored_form import stored_info

OPEN = "open"
"""A head, with the records of `create`. The newest segment has the state of the stream."""
SEALED = "sealed"
"""The head of a finished stream. It has the state itself; segments no longer count."""
VACANT = "vacant"
"""A head without a stream, for servers that cannot remove an object under a condition."""
SEGMENT = "segment"
TOMBSTONE = "tombstone"
"""The last segment of a stream that was deleted or has expired."""
PACKED = "packed"

_MAGIC = b"STS1"
_LENGTH = struct.Struct(">I")
_START = len(_MAGIC) + _LENGTH.size


class Layout(NamedTuple):
    """The place of a sealed stream's records: the object `key`; without a key, the head itself
    and the segments up to `number`."""

    number: int
    key: str | None = None
    blocks: tuple[tuple[int, int], ...] = ()
    """(offset in the stream, position in the object) of each block of `key`, and of the end."""


class Stamp(NamedTuple):
    """What tells one PUT from every other."""

    nonce: str
    written_at: float
    """Seconds since 1970, by S3's clock as the writer knew it."""


class Block(NamedTuple):
    """One block. Make it with one of the factories, which say what each kind contains."""

    kind: str
    stream_id: str
    generation: str
    number: int
    """Of a segment, from 1 on; 0 in a head."""
    start: int
    """Offset of the first record."""
    nonce: str = ""
    """The name of the PUT, by which a writer recognises its own object."""
    info: StreamInfo | None = None
    was_expiring_at: datetime | None = None
    """The expiry in force before this segment. A segment that S3 dates later is void."""
    due: int | None = None
    """Seconds of the stream's entry in the calendar, when this was written."""
    layout: Layout | None = None
    written_at: float = 0.0
    """Seconds since 1970, by S3's clock as the writer knew it."""
    lengths: tuple[int, ...] = ()
    payload: bytes = b""
    replaces: str = ""
    """In a head that took the place of another: the nonce of that. Of two writers that wanted
    to replace the same head, the loser recognises the winner by it."""

    @classmethod
    def open_head(
        cls,
        info: StreamInfo,
        generation: str,
        chunks: Sequence[bytes],
        *,
        due: int | None,
        stamp: Stamp,
    ) -> Block:
        """The head of a new stream, which holds the records of `create`."""
        return cls(
            kind=OPEN,
            stream_id=info.id,
            generation=generation,
            number=0,
            start=0,
            nonce=stamp.nonce,
            info=info,
            due=due,
            written_at=stamp.written_at,
            lengths=tuple(map(len, chunks)),
            payload=b"".join(chunks),
        )

    @classmethod
    def vacant_head(cls, stream_id: str, replaces: str, stamp: Stamp) -> Block:
        """A head that frees an id."""
        return cls(
            kind=VACANT,
            stream_id=stream_id,
            generation="",
            number=0,
            start=0,
            nonce=stamp.nonce,
            written_at=stamp.written_at,
            replaces=replaces,
        )

    @classmethod
    def packed(
        cls, stream_id: str, generation: str, number: int, start: int, chunks: Sequence[bytes]
    ) -> Block:
        """A part of a packed object; the head of the stream has its state."""
        return cls(
            kind=PACKED,
            stream_id=stream_id,
            generation=generation,
            number=number,
            start=start,
            lengths=tuple(map(len, chunks)),
            payload=b"".join(chunks),
        )

    def sealed(
        self, info: StreamInfo, layout: Layout, *, due: int | None, stamp: Stamp
    ) -> Block:
        """The head that replaces this head when the stream has finished."""
        return self._replace(
            kind=SEALED,
            nonce=stamp.nonce,
            info=info,
            due=due,
            layout=layout,
            written_at=stamp.written_at,
            replaces=self.nonce,
        )

    @property
    def end(self) -> int:
        return self.start + len(self.payload)

    def records(self) -> list[Record]:
        cuts = list(accumulate(self.lengths, initial=0))
        chunks = [self.payload[begin:end] for begin, end in pairwise(cuts)]
        return records_at([self.start + begin for begin in cuts], chunks)

    def is_void(self, modified: float) -> bool:
        """Whether the stream had expired before S3 took this segment, at `modified` seconds."""
        # By S3's date alone, and not by any clock: every reader must come to the same answer.
        end = self.was_expiring_at
        return end is not None and to_microseconds(end) <= modified * 1_000_000


def encode(block: Block) -> bytes:
    """The bytes of the object. Fields that are not set are left out of the header."""
    header: dict[str, Any] = {
        "kind": block.kind,
        "id": block.stream_id,
        "generation": block.generation,
        "number": block.number,
        "start": block.start,
        "nonce": block.nonce,
        "written_at": block.written_at,
        "lengths": block.lengths,
        "crc": zlib.crc32(block.payload),
    }
    if block.info is not None:
        header["info"] = _info_to_json(block.info)
    if block.was_expiring_at is not None:
        header["was_expiring_at"] = to_microseconds(block.was_expiring_at)
    if block.due is not None:
        header["due"] = block.due
    if block.replaces:
        header["replaces"] = block.replaces
    if block.layout is not None:
        header["layout"] = block.layout
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((_MAGIC, _LENGTH.pack(len(text)), text, block.payload))


def decode(data: bytes, key: str) -> Block:
    """The only block in `data`; raises `CorruptData`, naming `key`, for anything else."""
    block, end = _decode_one(data, 0, key)
    if end != len(data):
        raise CorruptData(f"the object {key!r} is longer than what was written")
    return block


def decode_all(data: bytes, key: str) -> list[Block]:
    """The sequence of blocks in `data`; raises `CorruptData` for anything else."""
    blocks: list[Block] = []
    position = 0
    while position < len(data):
        block, position = _decode_one(data, position, key)
        blocks.append(block)
    return blocks


def decode_header(data: bytes, key: str) -> Block:
    """The first block without its payload, from the beginning of an object."""
    return _block_of(*_header(data, 0, key)[:1], b"", key)


def _decode_one(data: bytes, position: int, key: str) -> tuple[Block, int]:
    """The block at the position and the position after it, its payload checked by the CRC."""
    """The block that begins at `position`, and its end. Raises `CorruptData`."""
    header, start = _header(data, position, key)
    lengths: Any = header.get("lengths")
    is_list = isinstance(lengths, list)
    lengths = cast("list[int]", lengths)
    if not is_list or not all(type(each) is int for each in lengths):
        raise CorruptData(f"the header of the object {key!r} is damaged")
    end = start + sum(lengths)
    # The CRC covers what S3's own checksums may not: other servers' disks, and proxies.
    payload = data[start:end]
    if len(payload) != end - start or zlib.crc32(payload) != header.get("crc"):
        raise CorruptData(f"the bytes of the object {key!r} are not those that were written")
    return _block_of(header, payload, key), end


def _header(data: bytes, position: int, key: str) -> tuple[dict[str, Any], int]:
    begin = position + _START
    if data[position : position + len(_MAGIC)] != _MAGIC or len(data) < begin:
        raise CorruptData(f"the object {key!r} was not written by a store")
    (length,) = _LENGTH.unpack(data[begin - _LENGTH.size : begin])
    try:
        header: Any = json.loads(data[begin : begin + length])
    except ValueError as exc:
        raise CorruptData(f"the header of the object {key!r} is damaged") from exc
    if not isinstance(header, dict):
        raise CorruptData(f"the header of the object {key!r} is damaged")
    return cast("dict[str, Any]", header), begin + length


def _block_of(header: dict[str, Any], payload: bytes, key: str) -> Block:
    """The block of a parsed header; raises `CorruptData` if a field is missing or of another
    type than `encode` writes."""
    try:
        info = header.get("info")
        end = header.get("was_expiring_at")
        return Block(
            kind=header["kind"],
            stream_id=header["id"],
            generation=header["generation"],
            number=header["number"],
            start=header["start"],
            nonce=header["nonce"],
            info=None if info is None else _info_of(header["id"], info),
            was_expiring_at=None if end is None else from_microseconds(end),
            due=header.get("due"),
            layout=_layout_of(header.get("layout")),
            written_at=header["written_at"],
            lengths=tuple(header["lengths"]),
            payload=payload,
            replaces=header.get("replaces", ""),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise CorruptData(f"the header of the object {key!r} is damaged") from exc


def _layout_of(fields: list[Any] | None) -> Layout | None:
    if fields is None:
        return None
    number, key, blocks = fields
    return Layout(number, key, tuple((offset, position) for offset, position in blocks))


def _info_to_json(info: StreamInfo) -> dict[str, Any]:
    """The header's `info`, with times in microseconds; `_info_of` reads it."""
    expires_at = info.expires_at
    return {
        "state": info.state.value,
        "tail": info.tail,
        "version": info.version,
        "error": info.error,
        "attributes": dict(info.attributes),
        "created_at": to_microseconds(info.created_at),
        "updated_at": to_microseconds(info.updated_at),
        "ttl": info.ttl,
        "expires_at": None if expires_at is None else to_microseconds(expires_at),
    }


def _info_of(stream_id: str, fields: Mapping[str, Any]) -> StreamInfo:
    """The inverse of `_info_to_json`."""
    return stored_info(
        stream_id,
        state=fields["state"],
        tail=fields["tail"],
        version=fields["version"],
        error=fields["error"],
        attributes=fields["attributes"],
        created_at=fields["created_at"],
        updated_at=fields["updated_at"],
        ttl=fields["ttl"],
        expires_at=fields["expires_at"],
    )


def cut(records: Iterable[Record], offset: int, max_bytes: int) -> list[Record]:
    """The records of a page: from `offset` on, at most `max_bytes`, but at least one record."""
    page: list[Record] = []
    for record in records:
        if record.end <= offset:
            continue
        if record.offset < offset:
            record = Record(offset, record.data[offset - record.offset :])
        if page and record.end > offset + max_bytes:
            break
        page.append(record)
    return page
