"""The command `bench` and its report."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from streamstores.cli.bench.bare_drivers import BareDriver, bare_driver
from streamstores.cli.bench.measurements import Bench, Figures
from streamstores.cli.options import about_json_option, about_store_option
from streamstores.cli.store_session import one_line, run_with_url, write_json
from streamstores.store_urls import open_store

if TYPE_CHECKING:
    import typer

__all__ = ["add_bench"]

_NAME, _CELL = 16, 26  # characters of a column


def add_bench(app: typer.Typer) -> None:
    """Add the command `bench`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_store = about_store_option()
    about_json = about_json_option()
    about_seconds: Any = typer.Option(
        2.0, min=0.1, max=60, help="How long each measurement takes."
    )

    @app.command()
    def bench(
        store: str | None = about_store,
        seconds: float = about_seconds,
        as_json: bool = about_json,
    ) -> None:
        """Measure a store from this machine, beside its driver alone.

        Appends of 20 bytes one after another; the delay until a follower, which has a store of
        its own, gets a record; and the replay of a stream of 10,000 records. The store and the
        driver take turns.

        Writes streams whose ids begin with "streamstores-bench/", and deletes them. Run it
        when the backend has little else to do, and several times.
        """

        async def measure(url: str) -> None:
            async with _opened(url, seconds) as bench:
                await _report(bench, as_json)

        run_with_url(store, measure)


@contextlib.asynccontextmanager
async def _opened(url: str, seconds: float) -> AsyncGenerator[Bench, None]:
    """Both stores and the driver. Raises as `open_store` does."""
    name = f"bench-{secrets.token_hex(6)}"
    is_shared = url.partition("://")[0] == "memory"  # two stores would have nothing in common
    async with contextlib.AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(url))
        elsewhere = store
        if not is_shared:
            elsewhere = await stack.enter_async_context(open_store(url))
        driver = await _driver(stack, url, name)
        yield Bench(store, elsewhere, driver, seconds, f"streamstores-bench/{name}")


async def _driver(stack: contextlib.AsyncExitStack, url: str, name: str) -> BareDriver | None:
    """The driver, or None if it cannot be had: the store is what the user came for."""
    try:
        driver = await stack.enter_async_context(bare_driver(url, name))
        if driver is not None:
            await driver.append(b".")  # a right may be missing that the store does not need
    except Exception as exc:
        reason = one_line(f"{type(exc).__name__}: {exc}")
        print(f"the driver alone is not measured: {reason}", file=sys.stderr)
        return None
    return driver


async def _report(bench: Bench, as_json: bool) -> None:
    """Measure, and print each row as soon as it is there."""
    show = _write_row if as_json else _print_row
    if not as_json:
        print(f"{'milliseconds':<{_NAME}}{'store':<{_CELL}}driver alone")
    show("append", *await bench.appends())
    show("delivery", await bench.delivery(), None)
    show("replay", *await bench.replay())
    if bench.driver is not None and not as_json:
        print(f"\ndriver alone: {bench.driver.does}")


def _print_row(measure: str, store: Figures, driver: Figures | None) -> None:
    line = f"{measure:<{_NAME}}{_cell(store):<{_CELL}}"
    if driver is not None:
        line += f"{_cell(driver):<{_CELL}}{store.median / driver.median:.1f} times"
    print(line.rstrip(), flush=True)


def _cell(seconds: Figures) -> str:
    return f"{seconds.median * 1_000:,.3f}, p99 {seconds.p99 * 1_000:,.3f}"


def _write_row(measure: str, store: Figures, driver: Figures | None) -> None:
    given = {"store": store, "driver": driver}
    milliseconds = {
        name: seconds and {"median": seconds.median * 1_000, "p99": seconds.p99 * 1_000}
        for name, seconds in given.items()
    }
    write_json({"measure": measure, "unit": "ms", **milliseconds})
