"""Rows and statement arguments: how the values of the contract look in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import accumulate, pairwise
from struct import unpack
from typing import TYPE_CHECKING

from streamstores.errors import CorruptData
from streamstores.mutations import Creation, Mutation, records_at
from streamstores.store import Record, StreamInfo
from streamstores.stored_form import (
    attributes_to_json,
    error_from_json,
    error_to_json,
    stored_info,
)

if TYPE_CHECKING:
    from streamstores.backends._postgres.connections import Row


def create_arguments(creation: Creation, version: int) -> tuple[object, ...]:
    """The arguments of `create.sql` after the stream's id."""
    return (
        creation.state.value,
        creation.size,
        version,
        attributes_to_json(creation.attributes),
        creation.ttl,
        creation.expires_at,
        *_joined_chunks(creation.chunks),
    )


def append_arguments(mutation: Mutation) -> tuple[object, ...]:
    """The arguments of `append.sql` after the stream's id."""
    return (
        mutation.size,
        mutation.at,
        mutation.version,
        None if mutation.state is None else mutation.state.value,
        error_to_json(mutation.error),
        None if mutation.attributes is None else attributes_to_json(mutation.attributes),
        *_joined_chunks(mutation.chunks),
    )


def _joined_chunks(chunks: tuple[bytes, ...]) -> tuple[list[str], list[str], bytes]:
    """The start and the length of each chunk, and the bytes of all chunks together.

    The numbers are sent as text: an array of text is the only array type that asyncpg knows
    without asking. For any other it runs three statements on every new connection.
    """
    sizes = [len(chunk) for chunk in chunks]
    # Offsets and lengths, because SQL cannot cut one bytea into several by their lengths alone
    # without a running sum.
    starts = [*accumulate(sizes, initial=0)][:-1]
    return [*map(str, starts)], [*map(str, sizes)], b"".join(chunks)


def stream_info(stream_id: str, row: Row) -> StreamInfo:
    """The info that a row holds. Raises `CorruptData` if no store can have written the row."""
    try:
        error = error_from_json(row["error"])
    except ValueError as exc:
        raise CorruptData(f"the error of stream {stream_id!r} cannot be read") from exc
    return stored_info(
        stream_id,
        state=row["state"],
        tail=row["tail"],
        version=row["version"],
        error=error,
        attributes=row["attributes"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        ttl=row["ttl"],
        expires_at=_aware(row["expires_at"]),
    )


def page_records(rows: Sequence[Row], stream_id: str, offset: int) -> list[Record]:
    """The records in the rows of `read.sql`; the first is cut if the page begins inside it.

    Raises `CorruptData` if there is a gap between them.
    """
    records: list[Record] = []
    end = offset
    for row in rows:
        if row["ends"] is None:
            break  # nothing after the offset
        piece = _split(row["ends"], row["data"])
        if piece[0].offset > end:
            raise CorruptData(f"stream {stream_id!r} lacks records at {end}")
        records += piece
        end = piece[-1].end
    # The index finds records by their end, so the first may begin before the offset.
    if records and records[0].offset < offset:
        start, data = records[0]
        records[0] = Record(offset, data[offset - start :])
    return records


def _split(ends: bytes, data: bytes) -> list[Record]:
    """The records of one row, from their end offsets and their joined bytes."""
    stops = unpack(f">{len(ends) // 8}q", ends)
    base = stops[-1] - len(data)
    cuts = pairwise((0, *(stop - base for stop in stops)) if base else (0, *stops))
    return records_at((base, *stops), [data[start:stop] for start, stop in cuts])


def _aware(moment: datetime | None) -> datetime | None:
    """asyncpg stores the first and the last moment as infinities, and reads those as naive."""
    if moment is not None and moment.tzinfo is None:
        return moment.replace(tzinfo=timezone.utc)
    return moment
