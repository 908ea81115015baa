"""The commands `export` and `import`: streams in files, and back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from streamstores.cli.archives import ArchiveFolder, StreamExport
from streamstores.cli.copy import listed_infos, transfer_all
from streamstores.cli.options import about_json_option, about_store_option
from streamstores.cli.store_session import run_with_store
from streamstores.cli.transfer_report import TransferReport
from streamstores.cli.transfers import Transfer
from streamstores.errors import InvalidRequest
from streamstores.store import StreamStore

if TYPE_CHECKING:
    import typer

__all__ = ["add_archive_commands"]


def add_archive_commands(app: typer.Typer) -> None:
    """Add the commands `export` and `import`."""
    _add_export(app)
    _add_import(app)


def _add_export(app: typer.Typer) -> None:
    """Add the command `export`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_folder = typer.Argument(file_okay=False, help="Made if there is none.")
    about_ids = typer.Argument(None, help="Only these streams.")
    about_prefix = typer.Option(None, help="Only ids that begin with this.")
    about_store, about_json = about_store_option(), about_json_option()

    @app.command()
    def export(
        folder: Path = about_folder,
        stream_ids: list[str] | None = about_ids,
        store: str | None = about_store,
        prefix: str | None = about_prefix,
        as_json: bool = about_json,
    ) -> None:
        """Write streams into a folder, a file for each.

        The same command again writes only what is missing or has changed.
        """
        exit_codes: list[int] = []

        async def write(opened: StreamStore) -> None:
            """List what was asked for, and export it one stream after the other."""
            if stream_ids and prefix is not None:
                raise InvalidRequest("give ids or --prefix, not both")
            infos = None if stream_ids else await listed_infos(opened, prefix or "")
            ids = stream_ids or [info.id for info in infos or ()]
            total = None if infos is None else sum(info.tail for info in infos)
            with TransferReport(len(ids), total, as_json) as report:
                exporting = StreamExport(opened, folder, on_bytes=report.advance)
                await transfer_all(exporting.bring, ids, report, jobs=1)
            exit_codes.append(report.exit_code)

        run_with_store(store, write)
        sys.exit(exit_codes[0])


def _add_import(app: typer.Typer) -> None:
    """Add the command `import`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_folder = typer.Argument(file_okay=False, exists=True, help="Of an export.")
    about_jobs = typer.Option(8, min=1, max=256, help="How many streams at a time.")
    about_retry = typer.Option(30.0, min=0, help="Seconds to try again if the store is away.")
    about_store, about_json = about_store_option(), about_json_option()

    @app.command("import")
    def import_streams(
        folder: Path = about_folder,
        store: str | None = about_store,
        jobs: int = about_jobs,
        retry_for: float = about_retry,
        as_json: bool = about_json,
    ) -> None:
        """Bring the streams of an exported folder into a store, as copy does."""
        exit_codes: list[int] = []

        async def read(opened: StreamStore) -> None:
            """Import every whole file; a damaged one is reported."""
            archive = ArchiveFolder(folder)
            sizes = {info.id: info.tail for info in archive}
            count = len(sizes) + len(archive.damaged)
            with TransferReport(count, sum(sizes.values()), as_json) as report:
                for name, error in archive.damaged:
                    report.fail(name, error)
                transfer = Transfer(
                    archive, opened, retry_for=retry_for, on_bytes=report.advance
                )
                await transfer_all(transfer.bring, sizes, report, jobs)
            exit_codes.append(report.exit_code)

        run_with_store(store, read)
        sys.exit(exit_codes[0])
