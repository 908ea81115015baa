"""A command's use of a store: opened, used, closed, with one line and a code for an error."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from functools import partial
from typing import Any

from streamstores.cli.exit_codes import (
    EXIT_BAD_REQUEST,
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    exit_code_of,
)
from streamstores.store import StreamInfo, StreamStore
from streamstores.store_urls import open_store

__all__ = [
    "URL_VARIABLE",
    "info_as_json",
    "one_line",
    "run_with_store",
    "run_with_url",
    "show_info",
    "write_json",
]

URL_VARIABLE = "STREAMSTORES_URL"


def run_with_store(url: str | None, use: Callable[[StreamStore], Awaitable[None]]) -> None:
    """Open the store, call `use` with it, and close it.

    Exits the process with a line on stderr if an expected error ends the command; other
    errors are defects and keep their traceback.
    """
    run_with_url(url, partial(_use_store, use=use))


def run_with_url(url: str | None, use: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """Call `use` with the URL of the store, which it opens itself. Ends as `run_with_store`."""
    if not url:
        _end(f"which store? Give --store URL, or set {URL_VARIABLE}", EXIT_BAD_REQUEST)
        return
    try:
        asyncio.run(_cancelled_by_ctrl_c(use(url)))
        sys.stdout.flush()
    except KeyboardInterrupt:
        _end("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it exits, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except Exception as exc:
        code = exit_code_of(exc)
        if code is None:
            raise
        _end(f"{type(exc).__name__}: {exc}", code)


async def _cancelled_by_ctrl_c(work: Coroutine[Any, Any, None]) -> None:
    """Do the work; the first Ctrl-C cancels it, so that it can say how far it has come.

    From Python 3.11 on `asyncio.run` does this. Before, the interrupt is raised between any two
    lines, and what was just written would not be counted.
    """
    task = asyncio.current_task()
    is_main = threading.current_thread() is threading.main_thread()
    if sys.version_info >= (3, 11) or task is None or not is_main:
        await work
        return
    loop, has_begun = asyncio.get_running_loop(), threading.Event()

    def interrupt(*_: object) -> None:
        if has_begun.is_set():
            raise KeyboardInterrupt
        has_begun.set()
        task.cancel()
        loop.call_soon_threadsafe(lambda: None)  # wakes a loop that waits

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        await work
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


async def _use_store(url: str, use: Callable[[StreamStore], Awaitable[None]]) -> None:
    async with open_store(url) as store:
        await use(store)


def _end(line: str, code: int) -> None:
    print(one_line(line), file=sys.stderr)
    sys.exit(code)


def one_line(text: str) -> str:
    """The text without characters that move the cursor or colour a terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def write_json(value: dict[str, Any]) -> None:
    """Write one line of JSON to stdout."""
    print(json.dumps(value, ensure_ascii=True))


def info_as_json(info: StreamInfo) -> dict[str, Any]:
    """Every field of the info; times are ISO 8601 in UTC, as the backend's clock tells them."""
    fields = {**info._asdict(), "state": info.state.value, "attributes": dict(info.attributes)}
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in fields.items()
    }


def show_info(info: StreamInfo, as_json: bool) -> None:
    """Print every field of the info to stdout, a line each, or all as one line of JSON."""
    fields = info_as_json(info)
    if as_json:
        write_json(fields)
        return
    for name, value in fields.items():
        print(f"{name:<11} {one_line(str(value))}")
