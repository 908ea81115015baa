"""What a command tells about many transfers: progress, a line of JSON for each, a summary."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from streamstores.cli.exit_codes import exit_code_of
from streamstores.cli.store_session import one_line, write_json
from streamstores.cli.transfers import Transferred
from streamstores.store import State

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["TransferReport"]


class TransferReport:
    """Counts what was transferred. Notes and the progress go to stderr, the rest to stdout.

    As a context manager it shows the progress if stderr is a terminal, and at the end, also of
    a command that fails or is interrupted, it prints the summary.
    """

    def __init__(self, total_streams: int, total_bytes: int | None, as_json: bool) -> None:
        self.exit_code: int = 0
        """That of the first stream that failed."""
        self._total_streams = total_streams
        self._as_json = as_json
        self._counts: Counter[str] = Counter()
        self._streaming = 0
        self._written_bytes = 0
        self._began_at = time.monotonic()
        self._progress, self._bar = _progress(total_bytes)

    def __enter__(self) -> TransferReport:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._as_json:
            write_json(self._summary())
        else:
            self._print_summary()

    def advance(self, count: int) -> None:
        """Show that a stream has come forward by so many bytes."""
        if self._progress is not None:
            self._progress.advance(self._bar, count)

    def add(self, transferred: Transferred) -> None:
        """Count a stream that was transferred; a line says that it is still streaming."""
        info = transferred.source
        self._counts[transferred.outcome.value] += 1
        self._written_bytes += transferred.written_bytes
        is_streaming = info.state is State.STREAMING
        self._streaming += is_streaming
        if self._as_json:
            fields = {"id": info.id, "outcome": transferred.outcome.value}
            sizes = {"bytes": transferred.written_bytes, "tail": info.tail}
            write_json({**fields, **sizes, "state": info.state.value})
        elif is_streaming:
            self._note(f"still streaming, as far as {info.tail}: {info.id}")

    def fail(self, stream_id: str, error: Exception) -> None:
        """Count a stream that could not be transferred, and print why."""
        self._counts["failed"] += 1
        self.exit_code = self.exit_code or exit_code_of(error) or 1
        if self._as_json:
            reason = {"error": type(error).__name__, "message": str(error)}
            write_json({"id": stream_id, "outcome": "failed", **reason})
        else:
            self._note(f"{type(error).__name__}: {error}")

    def _note(self, line: str) -> None:
        if self._progress is not None:
            self._progress.console.print(one_line(line), markup=False, highlight=False)
        else:
            print(one_line(line), file=sys.stderr)

    def _summary(self) -> dict[str, Any]:
        """The last line of the output, as it is with --json."""
        names = ("copied", "continued", "unchanged", "failed")
        counts = {name: self._counts[name] for name in names}
        return {
            "summary": counts,
            "streams": self._total_streams,
            "not_reached": self._total_streams - sum(counts.values()),
            "still_streaming": self._streaming,
            "bytes": self._written_bytes,
            "seconds": round(time.monotonic() - self._began_at, 3),
        }

    def _print_summary(self) -> None:
        """Print the summary as a sentence with the rate."""
        summary = self._summary()
        megabytes, seconds = summary["bytes"] / 1e6, summary["seconds"]
        rate = megabytes / max(seconds, 0.001)
        parts = [f"{count} {name}" for name, count in summary["summary"].items() if count]
        if summary["not_reached"]:
            parts.append(f"{summary['not_reached']} not reached")
        counts = ", ".join(parts) or "none"
        print(
            f"{summary['streams']} streams: {counts}; "
            f"{megabytes:.1f} MB in {seconds:.1f} s ({rate:.1f} MB/s)"
        )


def _progress(total_bytes: int | None) -> tuple[Progress | None, TaskID]:
    """A bar of the bytes with rate and remaining time; none if stderr is no terminal."""
    from rich.console import Console  # noqa: PLC0415  # the core install has no rich
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        return None, TaskID(0)
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    progress = Progress(*columns, console=console, transient=True)
    return progress, progress.add_task("", total=total_bytes)
