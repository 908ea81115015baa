"""The command `tail`: the end of a stream, and what is appended to it from then on."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from streamstores.cli.options import about_store_option
from streamstores.cli.store_session import one_line, run_with_store
from streamstores.errors import InvalidRequest, OffsetOutOfRange, StreamNotFound
from streamstores.follow import follow
from streamstores.store import State, StreamInfo, StreamStore

if TYPE_CHECKING:
    import typer

__all__ = ["add_tail"]

_DEFAULT_BYTES = 4096
_COMPARED_BYTES = 65_536


def add_tail(app: typer.Typer) -> None:
    """Add the command `tail`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_follow = typer.Option(
        False, "--follow", "-f", help="Go on until the stream ends, as it is written."
    )
    about_offset = typer.Option(
        None, help="The byte to begin with; below 0 it counts from the end of the stream."
    )
    about_output = typer.Option(None, dir_okay=False, help="A new file to write to.")
    about_continue = typer.Option(
        False, "--continue", help="Go on with an output file that is partly written."
    )
    about_store = about_store_option()

    @app.command()
    def tail(
        stream_id: str,
        store: str | None = about_store,
        follows: bool = about_follow,
        offset: int | None = about_offset,
        output: Path | None = about_output,
        continues: bool = about_continue,
    ) -> None:
        """Write the last 4096 bytes of a stream to stdout, and with -f what follows them.

        An output file gets the whole stream. If this is interrupted, the offset to go on from
        is printed; a file goes on with --continue, after its end was compared with the stream.
        """

        async def write(opened: StreamStore) -> None:
            if continues and output is None:
                raise InvalidRequest("--continue goes with --output")
            begin = offset if offset is not None else (0 if output else -_DEFAULT_BYTES)
            info = await opened.info(stream_id)
            start = _from_the_start(begin, info)
            if output is None:
                await _write_on(opened, info, sys.stdout.buffer, start, follows)
                return
            with output.open("a+b" if continues else "xb") as file:
                start += await _bytes_to_keep(opened, info, file, start)
                await _write_on(opened, info, file, start, follows)

        run_with_store(store, write)


def _from_the_start(offset: int, info: StreamInfo) -> int:
    return offset if offset >= 0 else max(info.tail + offset, 0)


async def _bytes_to_keep(
    store: StreamStore, info: StreamInfo, file: BinaryIO, start: int
) -> int:
    """The size of the file, whose end must be what the stream has there.

    `start` is the offset of its first byte. Raises `InvalidRequest` if it is another's.
    """
    size = file.seek(0, os.SEEK_END)
    compared = min(size, _COMPARED_BYTES)
    if not compared:
        return size
    file.seek(size - compared)
    end = start + size
    try:
        expected = b"".join(
            [part async for part in _bytes_up_to(store, info, end - compared, end)]
        )
    except OffsetOutOfRange:
        expected = b""
    if file.read() != expected:
        what = f"the file is not the beginning of stream {info.id!r} from offset {start} on"
        raise InvalidRequest(what)
    return size


async def _bytes_up_to(
    store: StreamStore, first: StreamInfo, offset: int, end: int
) -> AsyncIterator[bytes]:
    """The bytes in `[offset, end)`, a page at a time; `StreamNotFound` for a namesake."""
    if offset > first.tail or end > first.tail:
        raise OffsetOutOfRange(first.id, max(offset, end), tail=first.tail)
    while offset < end:
        page = await store.read(first.id, offset)
        if page.info.created_at != first.created_at:
            raise StreamNotFound(first.id)
        data = b"".join(record.data for record in page.records)[: end - offset]
        yield data
        offset += len(data)


async def _write_on(
    store: StreamStore, info: StreamInfo, file: BinaryIO, offset: int, follows: bool
) -> None:
    """Write the stream from the offset on. An error that ends this prints where to go on."""
    at = offset
    try:
        if follows:
            follower = follow(store, info.id, offset)
            while records := await follower.batch():
                file.write(b"".join(record.data for record in records))
                file.flush()
                at = records[-1].end
            _say_how_it_ended(follower.info)
            return
        async for data in _bytes_up_to(store, info, offset, max(info.tail, offset)):
            file.write(data)
            file.flush()
            at += len(data)
    except BrokenPipeError:
        raise
    except BaseException:
        print(f"written up to offset {at}: go on with --offset {at}", file=sys.stderr)
        raise


def _say_how_it_ended(info: StreamInfo | None) -> None:
    if info is not None and info.state is not State.DONE:
        reason = f": {one_line(info.error)}" if info.error else ""
        print(f"the stream has ended: {info.state}{reason}", file=sys.stderr)
