"""The command `doctor`, and the examination that is the same for every store."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamstores.cli.doctor.drivers import about_driver
from streamstores.cli.doctor.findings import Finding, Severity, error
from streamstores.cli.exit_codes import EXIT_FAILED
from streamstores.cli.store_session import URL_VARIABLE, one_line, run_with_url, write_json
from streamstores.errors import InvalidRequest, StreamStoreError
from streamstores.store import State, StreamStore
from streamstores.store_urls import open_store

if TYPE_CHECKING:
    import typer

__all__ = ["add_doctor"]

_TRIAL_SECONDS = 600  # after which a killed command's stream expires
_BACKENDS = {
    "sqlite": "sqlite",
    "postgresql": "postgres",
    "postgres": "postgres",
    "redis": "redis",
    "rediss": "redis",
    "redis+sentinel": "redis",
    "redis+cluster": "redis",
    "s3": "s3",
}


def add_doctor(app: typer.Typer) -> None:
    """Add the command `doctor`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_store: Any = typer.Option(None, "--store", envvar=URL_VARIABLE, help="A store URL.")
    about_json: Any = typer.Option(False, "--json", help="Print lines of JSON.")

    @app.command()
    def doctor(store: str | None = about_store, as_json: bool = about_json) -> None:
        """Say what is wrong with a store or risky, what it means, and what to do.

        Opens the store as a program of yours would, which makes what is missing of its file or
        its tables. Writes one stream, whose id begins with "streamstores-doctor/", and deletes
        it. Changes no setting.

        Exits with 0 if no finding is an error, and with 1 if one is. A URL that cannot be
        understood, or a driver that is not installed, exits with 2.
        """
        findings: list[Finding] = []

        async def examine(url: str) -> None:
            findings.extend(await _examine(url))

        run_with_url(store, examine)
        _report(findings, as_json)


async def _examine(url: str) -> list[Finding]:
    """All findings, the worst first. Raises as `open_store` does."""
    store = open_store(url)
    backend = _BACKENDS.get(url.partition("://")[0])
    module = import_module(f"streamstores.cli.doctor.{backend}") if backend else None
    # Before the store is opened: some of it explains why the store cannot be opened.
    findings: list[Finding] = await module.examine(url) if module else []
    findings += about_driver(backend) if backend else []
    findings += await _try_out(store)
    order = list(Severity)
    return sorted(findings, key=lambda finding: order.index(finding.severity))


async def _try_out(store: StreamStore) -> list[Finding]:
    """What happens when the store is opened and used."""
    try:
        async with store:
            await _use_one_stream(store)
    except StreamStoreError as exc:
        return [_failed_trial(exc)]
    return []


def _failed_trial(exc: StreamStoreError) -> Finding:
    """The finding for a store that cannot be opened or used."""
    kind = "refuses to work" if isinstance(exc, InvalidRequest) else "does not work"
    return error(
        "store.unusable",
        f"the store {kind}: {type(exc).__name__}: {exc}",
        "correct the URL, the credentials or the rights that the message names; the guide of "
        "the store lists the rights that it needs",
    )


async def _use_one_stream(store: StreamStore) -> None:
    """Every operation that a program needs, so that a missing right shows."""
    stream_id = f"streamstores-doctor/{secrets.token_hex(8)}"
    try:
        created = await store.create(stream_id, b"a", ttl=_TRIAL_SECONDS)
        await store.append(stream_id, b"b", at=created.tail, state=State.DONE)
        await store.read(stream_id)
        await store.expire(stream_id, _TRIAL_SECONDS)
        async for _ in store.list(stream_id):
            pass
        await store.delete(stream_id)
    except BaseException:
        with suppress(StreamStoreError):
            await store.delete(stream_id)
        raise


def _report(findings: Sequence[Finding], as_json: bool) -> None:
    """Print the findings, and exit if one of them is an error."""
    for finding in findings:
        if as_json:
            write_json({**finding._asdict(), "severity": finding.severity.value})
        else:
            print(f"{finding.severity.value:<8} {finding.code}")
            print(f"         {one_line(finding.meaning)}")
            print(f"         -> {one_line(finding.advice)}")
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    if not as_json:
        print(f"{len(findings)} findings, {errors} of them errors")
    if errors:
        sys.exit(EXIT_FAILED)
