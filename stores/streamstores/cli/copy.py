"""The command `copy`: streams of one store in another."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from streamstores.cli.options import about_json_option
from streamstores.cli.store_session import run_with_url
from streamstores.cli.transfer_report import TransferReport
from streamstores.cli.transfers import Transfer, Transferred
from streamstores.errors import (
    InvalidRequest,
    OutcomeUnknown,
    StoreUnavailable,
    StreamStoreError,
)
from streamstores.store import StreamInfo, StreamStore
from streamstores.store_urls import open_store

if TYPE_CHECKING:
    import typer

__all__ = ["add_copy", "listed_infos", "opened", "transfer_all"]

_VARIABLE = "env:"


def add_copy(app: typer.Typer) -> None:
    """Add the command `copy`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_source = typer.Argument(help="A store URL, or env:NAME for one in a variable.")
    about_target = typer.Argument(help="A store URL, or env:NAME for one in a variable.")
    about_ids = typer.Argument(None, help="Only these streams.")
    about_prefix = typer.Option(None, help="Only ids that begin with this.")
    about_jobs = typer.Option(8, min=1, max=256, help="How many streams at a time.")
    about_retry = typer.Option(30.0, min=0, help="Seconds to try again if a store is away.")
    about_json = about_json_option()

    @app.command()
    def copy(
        source: str = about_source,
        target: str = about_target,
        stream_ids: list[str] | None = about_ids,
        prefix: str | None = about_prefix,
        jobs: int = about_jobs,
        retry_for: float = about_retry,
        as_json: bool = about_json,
    ) -> None:
        """Copy streams from one store to another, and compare what the target then has.

        The same command again goes on after an interruption and leaves alone what is equal. A
        stream of which the target has another one is reported and not touched.
        """
        exit_codes: list[int] = []

        async def use(source_url: str) -> None:
            """Open both stores and copy what was asked for."""
            target_url = _resolved(target)
            if stream_ids and prefix is not None:
                raise InvalidRequest("give ids or --prefix, not both")
            if _resolved(source_url) == target_url:
                raise InvalidRequest("the two stores are the same")
            async with (
                opened("source", source_url) as from_store,
                opened("target", target_url) as to_store,
            ):
                infos = None if stream_ids else await listed_infos(from_store, prefix or "")
                ids = stream_ids or [info.id for info in infos or ()]
                total = None if infos is None else sum(info.tail for info in infos)
                with TransferReport(len(ids), total, as_json) as report:
                    transfer = Transfer(
                        from_store, to_store, retry_for=retry_for, on_bytes=report.advance
                    )
                    await transfer_all(transfer.bring, ids, report, jobs)
            exit_codes.append(report.exit_code)

        run_with_url(source, use)
        sys.exit(exit_codes[0])


def _resolved(url: str) -> str:
    """The URL, or what the environment variable that it names has."""
    if not url.startswith(_VARIABLE):
        return url
    name = url[len(_VARIABLE) :]
    if not os.environ.get(name):
        raise InvalidRequest(f"the environment variable {name!r} is not set")
    return os.environ[name]


@asynccontextmanager
async def opened(role: str, url: str) -> AsyncGenerator[StreamStore, None]:
    """The store, open; an error of the opening says which of two stores it was."""
    try:
        store = open_store(_resolved(url))
        await store.__aenter__()
    except StreamStoreError as exc:
        exc.args = (f"the {role} store: {exc}", *exc.args[1:])
        raise
    try:
        yield store
    finally:
        await store.aclose()


async def listed_infos(store: StreamStore, prefix: str) -> list[StreamInfo]:
    """The streams with the prefix, ordered by id, so that a second run takes the same way."""
    if "list" not in store.capabilities:
        raise InvalidRequest("the source store cannot list its streams: give their ids")
    return sorted([info async for info in store.list(prefix)], key=lambda info: info.id)


async def transfer_all(
    bring: Callable[[str], Awaitable[Transferred]],
    stream_ids: Iterable[str],
    report: TransferReport,
    jobs: int,
) -> None:
    """Transfer the streams, `jobs` at a time.

    An error of one stream is reported, and the others go on. A store that stays away ends all,
    with its error.
    """
    remaining = iter(stream_ids)
    workers = [
        asyncio.ensure_future(_transfer_some(bring, remaining, report)) for _ in range(jobs)
    ]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _transfer_some(
    bring: Callable[[str], Awaitable[Transferred]],
    remaining: Iterator[str],
    report: TransferReport,
) -> None:
    for stream_id in remaining:
        try:
            report.add(await bring(stream_id))
        except (StoreUnavailable, OutcomeUnknown):
            raise
        except StreamStoreError as exc:
            report.fail(stream_id, exc)
