"""`streamstores check`: what it prints, and how it exits."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from streamstores import cli
from streamstores.cli import check as command
from streamstores.conformance import CLAUSES, Result, all_checks, run_checks, runner
from streamstores.conformance.assertions import PATIENCE
from tests.contract.broken.hangs import BlocksAThreadOfTheExecutor

CHECKS = {each.id: each for each in all_checks()}


def check(*arguments: str):
    return CliRunner().invoke(cli.build_app(), ["check", *arguments])


def test_a_store_that_keeps_a_clause_exits_with_0():
    result = check("memory://", "--clause", "3", "--clause", "10")
    assert result.exit_code == 0, result.output
    assert "3. Order and bytes" in result.output
    assert "pass  A read may start anywhere" in result.output
    assert "1. One mutation" not in result.output
    assert " 0 failed, " in result.output
    assert "2 of 2 clauses have a check that passed" in result.output


def test_a_broken_store_exits_with_1_and_says_why():
    result = check("tests.contract.broken.mutation:LosesTheError", "--only", "error-text")
    assert result.exit_code == 1
    assert "FAIL  error= goes with" in result.output
    assert "clause01-error-text-is-kept" in result.output
    assert "result: expected (<State.ERROR: 'error'>, 'model fell over', 9)" in result.output
    assert "in check_error_text_is_kept" in result.output
    assert "0 passed, 1 failed" in result.output


def test_a_clause_without_an_offered_check_is_not_a_success():
    result = check("memory://", "--only", "clause10-*-process")
    assert result.exit_code == 1
    assert "none  " in result.output
    assert "nothing passed of clause 10" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("memory://with-a-path",),
        ("nosuch://x",),
        ("no_such_module:factory",),
        ("tests.contract.broken:NoSuchStore",),
        ("tests.contract.broken:BROKEN",),
        ("sqlite:////no/such/folder/x.db",),
        ("memory://", "--only", "no such check"),
        ("memory://", "--clause", "12"),
        (),
    ],
)
def test_a_target_or_selection_that_cannot_be_checked_exits_with_2(arguments):
    result = check(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


def test_a_pattern_selects_by_substring_or_wildcard():
    by_part = {each.id for each in command._select("wakes-on", [])}
    assert by_part == {each.id for each in all_checks() if "wakes-on" in each.id}
    by_wildcard = {each.id for each in command._select("clause04-wakes-on-*", [])}
    assert by_wildcard == by_part
    assert {each.clause for each in command._select("", [2, 7])} == {2, 7}
    assert len(command._select("", [])) == len(all_checks())


def test_a_hanging_check_is_explained(monkeypatch, capsys):
    monkeypatch.setattr(PATIENCE, "prompt", 0.2)
    checks = command._select("wakes-on-append", [])
    report = run_checks(checks, command.target_of("tests.contract.broken.waits:ForgetsToWake"))
    (result,) = report.results
    assert isinstance(result, Result)
    explained = command._explain(result.error)
    assert "nothing happened for 0.2 seconds" in explained
    assert "in is_woken_by" in explained
    assert "assertions.py" not in explained


# ---- histories


def test_histories_are_run_after_the_checks():
    result = check("memory://", "--only", "error-text", "--histories", "5")
    assert result.exit_code == 0, result.output
    assert "5 histories have an explanation" in result.output


def test_a_history_without_an_explanation_exits_with_1_and_is_shown():
    store = "tests.contract.broken.histories:HidesThatItMayHaveApplied"
    result = check(store, "--only", "heartbeats-prove", "--histories", "60", "--seed", "3")
    assert result.exit_code == 1, result.output
    assert "no order of these calls explains their results" in result.output
    assert "repeats it" in result.output


# ---- stores that hang


@pytest.fixture
def short_patience(monkeypatch):
    monkeypatch.setattr(PATIENCE, "prompt", 0.2)
    monkeypatch.setattr(PATIENCE, "eventual", 0.3)
    monkeypatch.setattr(PATIENCE, "opening", 0.5)
    monkeypatch.setattr(PATIENCE, "whole_check", 1.0)
    monkeypatch.setattr(runner, "_SLOW_SECONDS", 0.1)
    BlocksAThreadOfTheExecutor.over.clear()
    yield
    BlocksAThreadOfTheExecutor.over.set()  # or this process could not exit after its tests


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize(
    ("store", "only", "place"),
    [
        ("IgnoresTheCancellationOfAWait", "clause04-returns-the-info", "in wait"),
        ("IgnoresTheCancellationOfAWait", "clause09-waiters-learn", "in wait"),
        ("BlocksItsThread", "read-from-every-offset", "in read"),
        ("BlocksAThreadOfTheExecutor", "read-from-every-offset", "in read"),
    ],
)
def test_a_store_that_hangs_is_reported_with_the_check_and_the_place(store, only, place):
    result = check(f"tests.contract.broken.hangs:{store}", "--only", only)
    assert result.exit_code == 1, result.output
    (name,) = (each.id for each in all_checks() if only in each.id)
    assert f"({name}, running for " in result.output
    assert f"  FAIL  {CHECKS[name].title}" in result.output
    assert place in result.output
    assert "0 passed, 1 failed" in result.output


@pytest.mark.usefixtures("short_patience")
def test_the_checks_after_one_that_hangs_still_run():
    checks = [CHECKS["clause03-read-from-every-offset"], CHECKS["clause01-error-text-is-kept"]]
    report = run_checks(
        checks, command.target_of("tests.contract.broken.hangs:BlocksItsThread")
    )
    assert [each.status for each in report.results] == ["failed", "passed"]


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize(
    ("store", "place"),
    [
        ("NeverOpens", "in __aenter__"),
        ("NeverCloses", "in aclose"),
        ("BlocksItsThreadOnEntry", "in __aenter__"),
    ],
)
def test_a_store_that_does_not_open_or_close_exits_with_2(store, place):
    result = check(f"tests.contract.broken.hangs:{store}")
    assert result.exit_code == 2, result.output
    assert "opening and closing the store" in result.output
    assert place in result.output


def test_a_store_that_raises_system_exit_fails_its_check(caplog):
    result = check("tests.contract.broken.hangs:ExitsTheProgram", "--only", "mutable-buffers")
    assert result.exit_code == 1, result.output
    assert "FAIL" in result.output
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_the_command_ends_while_a_thread_of_the_store_is_blocked():
    code = (
        "from streamstores.conformance.assertions import PATIENCE;"
        "PATIENCE.whole_check = PATIENCE.eventual = 1;"
        "from streamstores.cli import main; main()"
    )
    target = "tests.contract.broken.hangs:BlocksAThreadOfTheExecutor"
    run = subprocess.run(
        [sys.executable, "-c", code, "check", target, "--only", "mutable-buffers"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    assert "not every clause asked for is shown to hold" in run.stdout


def test_without_typer_the_command_names_the_extra():
    code = "import sys; sys.modules['typer'] = None; from streamstores.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert 'pip install "streamstores[cli]"' in run.stderr
    assert "Traceback" not in run.stderr


def test_every_clause_has_a_heading():
    assert sorted(CLAUSES) == list(range(1, 12))
