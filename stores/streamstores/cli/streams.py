"""The commands that show, stop and delete streams: `ls`, `info`, `cat`, `rm` and others."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from streamstores.cli.options import about_json_option, about_store_option
from streamstores.cli.store_session import (
    info_as_json,
    one_line,
    run_with_store,
    show_info,
    write_json,
)
from streamstores.errors import InvalidRequest, StreamNotFound
from streamstores.store import State, StreamInfo, StreamStore

if TYPE_CHECKING:
    import typer

__all__ = ["add_stream_commands"]


def add_stream_commands(app: typer.Typer) -> None:
    """Add the commands for the streams of one store."""
    for add in (_add_ls, _add_info, _add_cat, _add_stop, _add_expire, _add_rm, _add_sweep):
        add(app)


def _add_ls(app: typer.Typer) -> None:
    """Add the command `ls`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_prefix = typer.Argument("", help="Only ids that begin with this.")
    about_state = typer.Option(None, help="Only streams in this state.")
    about_stale = typer.Option(
        None, min=0, help="Only streaming ones that nothing changed for this many seconds."
    )
    about_store, about_json = about_store_option(), about_json_option()

    @app.command()
    def ls(
        prefix: str = about_prefix,
        store: str | None = about_store,
        state: State | None = about_state,
        stale: float | None = about_stale,
        as_json: bool = about_json,
    ) -> None:
        """List streams: state, bytes, seconds since the last change, id.

        The seconds are counted on this machine's clock from a time on the backend's clock.
        """

        async def show(opened: StreamStore) -> None:
            async for info in _listed(opened, prefix):
                if _is_wanted(info, state, stale):
                    _show_row(info, as_json)

        run_with_store(store, show)


def _listed(store: StreamStore, prefix: str) -> AsyncIterator[StreamInfo]:
    if "list" not in store.capabilities:
        raise InvalidRequest("this store cannot list its streams")
    return store.list(prefix)


def _seconds_since_change(info: StreamInfo) -> float:
    return (datetime.now(timezone.utc) - info.updated_at).total_seconds()


def _is_wanted(info: StreamInfo, state: State | None, stale: float | None) -> bool:
    if state is not None and info.state is not state:
        return False
    if stale is None:
        return True
    return info.state is State.STREAMING and _seconds_since_change(info) >= stale


def _show_row(info: StreamInfo, as_json: bool) -> None:
    if as_json:
        write_json(info_as_json(info))
        return
    age = _seconds_since_change(info)
    print(f"{info.state.value:<9} {info.tail:>12} {age:>10.0f}  {one_line(info.id)}")


def _add_info(app: typer.Typer) -> None:
    """Add the command `info`."""
    about_store, about_json = about_store_option(), about_json_option()

    @app.command()
    def info(
        stream_id: str, store: str | None = about_store, as_json: bool = about_json
    ) -> None:
        """Show everything that the store knows of a stream, except its bytes."""

        async def show(opened: StreamStore) -> None:
            show_info(await opened.info(stream_id), as_json)

        run_with_store(store, show)


def _add_cat(app: typer.Typer) -> None:
    """Add the command `cat`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_offset = typer.Option(0, min=0, help="The byte to begin with.")
    about_store = about_store_option()

    @app.command()
    def cat(
        stream_id: str, store: str | None = about_store, offset: int = about_offset
    ) -> None:
        """Write the bytes that a stream has now to stdout, a page at a time."""

        async def write(opened: StreamStore) -> None:
            await _write_bytes(opened, stream_id, offset)

        run_with_store(store, write)


async def _write_bytes(store: StreamStore, stream_id: str, offset: int) -> None:
    """Write up to the tail that the stream has now, so that a busy stream ends as well."""
    first = await store.info(stream_id)
    while offset != first.tail:
        page = await store.read(stream_id, offset)
        if page.info.created_at != first.created_at:
            raise StreamNotFound(stream_id)
        data = b"".join(record.data for record in page.records)[: first.tail - offset]
        sys.stdout.buffer.write(data)
        offset += len(data)
    sys.stdout.buffer.flush()


def _add_stop(app: typer.Typer) -> None:
    """Add the command `stop`."""
    about_store, about_json = about_store_option(), about_json_option()

    @app.command()
    def stop(
        stream_id: str, store: str | None = about_store, as_json: bool = about_json
    ) -> None:
        """Stop a stream: its followers end, its producer is refused. It can be reopened."""

        async def end(opened: StreamStore) -> None:
            show_info(await opened.mark_done(stream_id, State.STOPPED), as_json)

        run_with_store(store, end)


def _add_expire(app: typer.Typer) -> None:
    """Add the command `expire`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_ttl = typer.Option(None, min=0, help="Seconds from now; sliding.")
    about_never = typer.Option(False, "--never", help="Keep the stream.")
    about_store, about_json = about_store_option(), about_json_option()

    @app.command()
    def expire(
        stream_id: str,
        store: str | None = about_store,
        ttl: float | None = about_ttl,
        never: bool = about_never,
        as_json: bool = about_json,
    ) -> None:
        """Change when a stream expires. Give --ttl or --never."""

        async def change(opened: StreamStore) -> None:
            if (ttl is None) != never:
                raise InvalidRequest("give either --ttl SECONDS or --never")
            show_info(await opened.expire(stream_id, ttl), as_json)

        run_with_store(store, change)


def _add_rm(app: typer.Typer) -> None:
    """Add the command `rm`."""
    about_store = about_store_option()

    @app.command()
    def rm(stream_ids: list[str], store: str | None = about_store) -> None:
        """Delete streams, at once and for good; stops at the first that does not exist."""

        async def delete(opened: StreamStore) -> None:
            for stream_id in stream_ids:
                await opened.delete(stream_id)

        run_with_store(store, delete)


def _add_sweep(app: typer.Typer) -> None:
    """Add the command `sweep`."""
    about_store, about_json = about_store_option(), about_json_option()

    @app.command()
    def sweep(store: str | None = about_store, as_json: bool = about_json) -> None:
        """Give back the storage of all expired streams."""

        async def give_back(opened: StreamStore) -> None:
            total = 0
            while swept := await opened.sweep():
                total += swept
            if as_json:
                write_json({"swept": total})
            else:
                print(f"{total} expired streams swept")

        run_with_store(store, give_back)
