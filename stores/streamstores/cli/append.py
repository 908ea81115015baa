"""The command `append`: stdin as the records of a stream."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from streamstores._time_limits import in_time
from streamstores.cli.options import about_json_option, about_store_option
from streamstores.cli.store_session import run_with_store, show_info
from streamstores.errors import InvalidRequest, StreamClosed, StreamExists
from streamstores.store import State, StreamInfo, StreamStore
from streamstores.writer import StreamWriter

if TYPE_CHECKING:
    import typer

__all__ = ["add_append"]

_CHUNK_BYTES = 65_536
_FLUSH_SECONDS = 5.0  # after Ctrl-C, for what has arrived; a second one ends it at once


def add_append(app: typer.Typer) -> None:
    """Add the command `append`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_lines = typer.Option(False, "--lines", help="Each line, with its end, is a record.")
    about_create = typer.Option(False, "--create", help="Create the stream if there is none.")
    about_ttl = typer.Option(None, min=0, help="Of a new stream: seconds until it expires.")
    about_attribute = typer.Option(
        [], "--attribute", metavar="KEY=VALUE", help="Of a new stream; may be repeated."
    )
    about_done = typer.Option(False, "--done", help="Mark the stream done after the last byte.")
    about_heartbeat = typer.Option(
        None, help="Show followers a sign of life so often, in seconds, while stdin is silent."
    )
    about_retry = typer.Option(30.0, min=0, help="Seconds to try again if the store is away.")
    about_store, about_json = about_store_option(), about_json_option()

    @app.command()
    def append(
        stream_id: str,
        store: str | None = about_store,
        lines: bool = about_lines,
        create: bool = about_create,
        ttl: float | None = about_ttl,
        attribute: list[str] = about_attribute,
        done: bool = about_done,
        heartbeat: float | None = about_heartbeat,
        retry_for: float = about_retry,
        as_json: bool = about_json,
    ) -> None:
        """Append stdin to a stream, as it arrives, and show the stream at the end.

        This is the stream's only producer: if something else appends to it, the command ends.
        On every error it says how many bytes of stdin are in the stream.
        """

        async def write(opened: StreamStore) -> None:
            """Check the options, find or create the stream, and append to it."""
            attributes = _parsed(attribute)
            if (ttl is not None or attributes) and not create:
                raise InvalidRequest("--ttl and --attribute go with --create")
            info = await _begin(opened, stream_id, create, ttl, attributes)
            writer = StreamWriter(
                opened,
                stream_id,
                info=info,
                heartbeat=heartbeat,
                retry_for=retry_for,
                split=not lines,
            )
            show_info(await _drive(writer, info, lines, done), as_json)

        run_with_store(store, write)


def _parsed(attributes: Iterable[str]) -> Mapping[str, str]:
    pairs = [each.partition("=") for each in attributes]
    wrong = [key for key, equals, _ in pairs if not equals]
    if wrong:
        raise InvalidRequest(f"an attribute is KEY=VALUE, not {wrong[0]!r}")
    return {key: value for key, _, value in pairs}


async def _begin(
    store: StreamStore,
    stream_id: str,
    create: bool,
    ttl: float | None,
    attributes: Mapping[str, str],
) -> StreamInfo:
    """The stream as it is before the first append. Raises `StreamClosed` if it takes none."""
    if create:
        try:
            return await store.create(stream_id, ttl=ttl, attributes=attributes)
        except StreamExists:
            pass
    info = await store.info(stream_id)
    if info.state is not State.STREAMING:
        raise StreamClosed(f"stream {stream_id!r} is {info.state}", info)
    return info


async def _drive(
    writer: StreamWriter, before: StreamInfo, lines: bool, done: bool
) -> StreamInfo:
    """Write stdin to its end. An error that ends this prints how much of it was stored."""
    writer.start()
    try:
        await _write_stdin(writer, lines)
        info = await writer.aclose(State.DONE if done else None)
        return info or before
    except BaseException:
        with suppress(Exception):  # the first error says more
            await in_time(writer.aclose(), _FLUSH_SECONDS)
        await writer.abort()
        stored = (writer.info or before).tail - before.tail
        print(f"{stored} bytes of the input are in the stream", file=sys.stderr)
        raise


async def _write_stdin(writer: StreamWriter, lines: bool) -> None:
    """Write what arrives, until stdin or the writer ends; either may come first."""
    copying = asyncio.ensure_future(_write_all(writer, _by_lines() if lines else _chunks()))
    ended = writer.ended()
    try:
        both: tuple[asyncio.Future[Any], ...] = copying, ended
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        failure = ended.result() if ended.done() else None
        if failure is not None:
            raise failure
        await copying
    finally:
        copying.cancel()
        ended.cancel()
        await asyncio.wait([copying])


async def _write_all(writer: StreamWriter, records: AsyncIterator[bytes]) -> None:
    async for record in records:
        await writer.write(record)


async def _by_lines() -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in _chunks():
        *whole, last = chunk.split(b"\n")
        for line in whole:
            yield rest + line + b"\n"
            rest = b""
        rest += last
    if rest:
        yield rest


async def _chunks() -> AsyncIterator[bytes]:
    """What arrives on stdin, in the pieces in which it arrives.

    A thread of its own reads, which does not keep the process from ending: a read of stdin
    cannot be cancelled. `os.read` and not `sys.stdin.buffer`, whose lock the thread would
    still hold when the interpreter exits.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(4)

    def read() -> None:
        """Hand over each piece as it arrives, and an empty one or an error as the last."""
        data: bytes | OSError = b"begin"
        while data and not isinstance(data, OSError):
            room.acquire()
            try:
                data = os.read(0, _CHUNK_BYTES)
            except OSError as exc:
                data = exc
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, data)
            except RuntimeError:  # the loop is closed
                return

    threading.Thread(target=read, daemon=True).start()
    while chunk := await arrived.get():
        if isinstance(chunk, OSError):
            raise chunk
        room.release()
        yield chunk
