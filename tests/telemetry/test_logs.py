"""Each log record has an event that the guide lists, and none has the id of a stream."""

from __future__ import annotations

import ast
import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamstores import MemoryStreamStore, OutcomeUnknown, StreamNotFound, logs
from streamstores.runs import Runs
from streamstores.runs.run_log import _EVENTS
from tests.unit.scripted_runs import Reviving, Script, abandon, read_to_end, until

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "stores" / "streamstores"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


@pytest.fixture
def shown_ids() -> Iterator[None]:
    logs.show_stream_ids()
    yield
    logs.show_stream_ids(False)


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of a logger in the package, with its place."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                is_log = isinstance(owner, ast.Name) and owner.id in ("_log", "_logger")
                if is_log and node.func.attr in LEVELS:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def test_every_log_call_names_an_event_and_no_id() -> None:
    calls = list(log_calls())
    assert len(calls) > 10
    for place, call in calls:
        assert "extra" in {keyword.arg for keyword in call.keywords}, place
        for argument in call.args:
            names = ast.unparse(argument)
            assert not re.fullmatch(r"(self\.)?_?(stream_id|info\.id|exc)", names) or (
                place.startswith(("backends/", "http/chat/saved_request.py"))
            ), f"{place} logs {names} as it is"


def test_the_guide_lists_every_event_and_no_other() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    events = {f"run.{name}" for name in _EVENTS}
    events |= set(re.findall(r'logs\.event\(\s*"([\w.]+)"', source))
    events |= set(re.findall(r'extra=event\("([\w.]+)"', source))
    guide = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
    table = guide.partition("| logger | event |")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(\w+\.\w+)`", table))
    listed = {each for each in listed if not each.startswith("streamstores.")}
    assert listed == events


async def test_a_failed_source_and_a_takeover_are_logged_without_their_ids(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with MemoryStreamStore() as store:
        dying = Runs(store, heartbeat=0.05)
        other = Runs(store, heartbeat=0.05, revive=Reviving())
        await dying.start("a-secret-id", Script().say(b"a").source())
        await until(store, "a-secret-id", lambda info: info.tail == 1)
        await abandon(dying, "a-secret-id")
        reading = asyncio.ensure_future(read_to_end(other, "a-secret-id"))
        await until(store, "a-secret-id", lambda info: "takeovers" in info.attributes)
        reading.cancel()
        await other.start("another-secret-id", Script().say(KeyError("x")).source())
        await until(store, "another-secret-id", lambda info: info.state == "error")
        await other.aclose()
    found: dict[str, Any] = {each.event: each.stream for each in caplog.records}  # type: ignore[attr-defined]
    assert found["run.takeover"] == logs.label("a-secret-id")
    assert found["run.source_failed"] == logs.label("another-secret-id")
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "exc",
    [
        StreamNotFound('it\'s "secret"'),
        StreamNotFound("a 'secret'"),
        OutcomeUnknown(f"an append to {'secret'!r} may have been applied"),
    ],
)
def test_the_reason_of_an_error_hides_the_id(exc: Exception) -> None:
    assert "secret" in str(exc)
    assert "secret" not in logs.reason(exc)
    assert "(id hidden)" in logs.reason(exc)


@pytest.mark.usefixtures("shown_ids")
def test_ids_are_shown_if_the_application_wants_them() -> None:
    assert logs.label("s") == "s"
    assert logs.event("x", "s") == {"event": "x", "stream": "s"}
    assert logs.reason(StreamNotFound("s")) == "no stream 's'"


def test_the_label_of_an_id_is_the_same_in_every_process() -> None:
    assert logs.label("ann/1") == "#62d710935454"
