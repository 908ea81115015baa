"""The suite itself: its checks, its report, its pytest items, its second process."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamstores import Conflict, MemoryStreamStore, StreamInfo, StreamNotFound
from streamstores.conformance import (
    CLAUSES,
    Harness,
    NotOffered,
    Target,
    all_checks,
    run_check,
    run_checks,
    target_of,
)
from streamstores.conformance.assertions import (
    PATIENCE,
    content,
    equal,
    eventually,
    raises,
    read_all,
    tile,
    within,
)
from streamstores.conformance.harness import run_in_own_loop
from streamstores.conformance.registry import Check, check
from streamstores.conformance.second_process import SecondProcess
from streamstores.store import Record
from tests.contract.broken import BROKEN

pytest_plugins = "pytester"

MEMORY = Target(MemoryStreamStore)


def some(clause: int) -> list[Check]:
    return [each for each in all_checks() if each.clause == clause]


# ---- the registry


def test_every_clause_has_checks_with_unique_ids_and_titles():
    assert {each.clause for each in all_checks()} == set(CLAUSES)
    assert len({each.id for each in all_checks()}) == len(all_checks())
    assert len({each.title for each in all_checks()}) == len(all_checks())


def test_clauses_come_in_order():
    clauses = [each.clause for each in all_checks()]
    assert clauses == sorted(clauses)


def test_a_check_without_a_title_or_with_a_used_name_is_refused():
    async def check_untitled(harness):
        pass

    async def check_wakes_on_append(harness):
        """A title."""

    for clause, function in (
        (1, check_untitled),
        (4, check_wakes_on_append),
        (12, check_wakes_on_append),
    ):
        with pytest.raises(ValueError, match="an unused name"):
            check(clause)(function)


# ---- the assertions


def test_equal_names_the_comparison_and_both_values():
    equal(1, 1, "one")
    with pytest.raises(AssertionError, match="tail: expected 3, got 4"):
        equal(4, 3, "tail")


def test_raises_requires_the_right_error():
    with raises(StreamNotFound, "it") as caught:
        raise StreamNotFound("x")
    assert caught.error.stream_id == "x"
    with (
        pytest.raises(AssertionError, match="it: expected StreamNotFound, but nothing"),
        raises(StreamNotFound, "it"),
    ):
        pass
    with (
        pytest.raises(AssertionError, match="it: expected StreamNotFound, got KeyError"),
        raises(StreamNotFound, "it"),
    ):
        raise KeyError("x")
    with pytest.raises(asyncio.CancelledError), raises(StreamNotFound, "it"):
        raise asyncio.CancelledError


def test_tile_refuses_gaps_empty_records_and_other_types():
    assert tile([Record(2, b"ab"), Record(4, b"c")], 2, "it") == 5
    for records in ([Record(3, b"x")], [Record(2, b"")], [Record(2, bytearray(b"x"))]):
        with pytest.raises(AssertionError):
            tile(records, 2, "it")


async def test_within_cancels_an_awaitable_that_takes_too_long():
    async def sleep_long() -> None:
        await asyncio.sleep(1000)

    task = asyncio.ensure_future(sleep_long())
    with pytest.raises(
        AssertionError,
        match=r"it: nothing happened for 0\.01 seconds; the call is at .* in sleep_long",
    ):
        await within(0.01, task, "it")
    assert task.cancelled()
    assert await within(10, asyncio.sleep(0, "result"), "it") == "result"


async def test_eventually_gives_up(monkeypatch):
    monkeypatch.setattr(PATIENCE, "eventual", 0.01)

    async def never() -> bool:
        return False

    with pytest.raises(AssertionError, match="it: still false"):
        await eventually(never, "it")


async def test_read_all_refuses_an_empty_page_before_the_tail():
    async with BROKEN["GivesNoRecordOverMaxBytes"].make_store() as store:
        await store.create("a", b"long")
        with pytest.raises(AssertionError, match="empty before the tail 4"):
            await read_all(store, "a", max_bytes=2)


# ---- the harness


async def test_a_store_without_multi_process_is_opened_once():
    async with Harness(MEMORY) as harness:
        assert await harness.open() is await harness.open()
        assert await harness.open_new() is not await harness.open()


async def test_a_multi_process_store_is_opened_again_and_its_streams_deleted(tmp_path):
    target = target_of(f"sqlite:///{tmp_path}/x.db")
    async with Harness(target) as harness:
        store, other = await harness.open(), await harness.open()
        assert store is not other
        stream_id = harness.new_id()
        await store.create(stream_id)
        running = harness.start(asyncio.sleep(1000))
    assert running.cancelled()
    async with target.make_store() as store:
        with pytest.raises(StreamNotFound):
            await store.info(stream_id)


async def test_make_store_may_return_a_context_manager():
    events = []

    @asynccontextmanager
    async def make_store():
        async with MemoryStreamStore() as store:
            yield store
        events.append("closed")

    async with Harness(Target(make_store)) as harness:
        await (await harness.open()).create(harness.new_id())
    assert events == ["closed"]


async def test_a_capability_that_is_not_declared_is_not_offered():
    async with Harness(MEMORY) as harness:
        await harness.require(frozenset({"list"}))
        with pytest.raises(NotOffered, match="durable, multi_process"):
            await harness.require(frozenset({"multi_process", "durable", "list"}))
        with pytest.raises(NotOffered, match="second_process="):
            await harness.require(frozenset({"second_process"}))
        with pytest.raises(NotOffered, match="second_process="):
            await harness.second_process()


def test_a_target_is_a_url_or_a_path_to_a_factory():
    assert isinstance(target_of("memory://").make_store(), MemoryStreamStore)
    target = target_of("streamstores:MemoryStreamStore")
    assert target.make_store is MemoryStreamStore
    assert target.second_process == "streamstores:MemoryStreamStore"
    for text, error in (
        ("nonsense", ValueError),
        ("streamstores:", ValueError),
        ("streamstores:__version__", TypeError),
        ("streamstores:nothing", AttributeError),
        ("no_such_module:x", ModuleNotFoundError),
    ):
        with pytest.raises(error):
            target_of(text)


def test_a_separate_loop_leaves_no_task_running():
    tasks = []

    async def leave_a_task() -> str:
        tasks.append(asyncio.ensure_future(asyncio.sleep(1000)))
        await asyncio.sleep(0)
        return "result"

    assert run_in_own_loop(leave_a_task()) == "result"
    assert tasks[0].cancelled()


# ---- the runner


def test_a_report_counts_results_and_lists_unproven_clauses():
    report = run_checks(some(10), MEMORY)
    assert (report.count("passed"), report.count("failed")) == (1, 0)
    assert report.count("not offered") == len(some(10)) - 1
    assert report.ok([10])
    assert not report.ok()
    assert report.unproven() == [*range(1, 10), 11]


def test_an_empty_run_is_not_a_success():
    assert not run_checks([], MEMORY).ok()


def test_a_failure_is_reported_and_the_other_checks_still_run():
    heard = []
    checks = [each for each in some(1) if "error-text" in each.id or "heartbeat" in each.id]
    report = run_checks(
        checks, Target(BROKEN["LosesTheError"].make_store), on_result=heard.append
    )
    assert [each.status for each in report.results] == ["passed", "failed"]
    assert heard == report.results
    assert "expected (" in str(report.results[1].error)
    assert not report.ok([1])


def test_a_check_that_hangs_fails(monkeypatch):
    monkeypatch.setattr(PATIENCE, "whole_check", 0.05)

    async def hang(harness: Harness) -> None:
        await asyncio.sleep(1000)

    hanging = Check("clause01-hangs", 1, "It hangs", frozenset(), hang)
    with pytest.raises(AssertionError, match="did not end"):
        run_check(hanging, MEMORY)


# ---- the second process


async def test_a_second_process_answers_calls_and_raises_the_errors_of_its_store(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    async with target_of(url).make_store() as store, SecondProcess(url) as process:
        info = await store.create("a", b"abc", attributes={"x": "y"})
        assert await process.call("info", "a") == info
        assert (await process.call("read", "a")).info == info
        assert isinstance(await process.call("append", "a", b"d", at=3), StreamInfo)
        with pytest.raises(Conflict, match="ends at 4, not 3"):
            await process.call("append", "a", b"e", at=3)
        with pytest.raises(RuntimeError, match="AttributeError"):
            await process.call("no_such_method")
        assert [each.id for each in await process.call("list", "")] == ["a"]
        assert await process.call("bump", "a", [b"e", b"f"]) == 0
        await store.mark_done("a")
        followed = await process.call("follow", "a", 1)
        assert b"".join(record.data for record in followed) == b"bcdef"
        assert await content(store, "a") == b"abcdef"


async def test_a_killed_process_fails_its_calls():
    async with SecondProcess("memory://") as process:
        await process.call("create", "a")
        waiting = process.start("follow", "a")
        await process.kill()
        with pytest.raises(RuntimeError, match="ended"):
            await waiting


async def test_a_second_process_that_cannot_open_its_store_fails():
    with pytest.raises(RuntimeError, match="ended"):
        async with SecondProcess("no_such_module:factory"):
            pass


# ---- the pytest items


@pytest.fixture(autouse=True)
def importable_tests(monkeypatch):
    """Let other Python processes that a test starts import the broken stores."""
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", root, prepend=os.pathsep)


def run_pytest(pytester: pytest.Pytester, text: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(text)
    pytester.makeini(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function"
    )
    # LangSmith's plugin warns on CPython 3.14 when it is imported.
    without = ("-p", "no:cacheprovider", "-p", "no:langsmith_plugin")
    return pytester.runpytest_subprocess(*without, "-rsxXf", *options)


def test_each_check_is_an_item_with_a_readable_id(pytester):
    text = """
        from streamstores import MemoryStreamStore
        from streamstores.conformance import contract_tests
        test_contract = contract_tests(MemoryStreamStore)
    """
    result = run_pytest(pytester, text, "-v", "-k", "clause10 or wakes-on-append")
    result.stdout.fnmatch_lines(["*test_contract?clause04-wakes-on-append? PASSED*"])
    result.stdout.fnmatch_lines(["*not offered: the store does not declare multi_process*"])
    result.assert_outcomes(
        passed=2, skipped=len(some(10)) - 1, deselected=len(all_checks()) - 12
    )


def test_a_deviation_is_a_strict_xfail_and_a_stale_deviation_fails(pytester):
    text = """
        from streamstores.conformance import contract_tests
        from tests.contract.broken import BROKEN
        test_contract = contract_tests(
            BROKEN["LosesTheError"].make_store,
            deviations={
                "clause01-error-text-is-kept": "we keep no errors",
                "clause01-append-of-nothing-is-a-heartbeat": "out of date",
                "clause01-no-such-check": "a slip of the pen",
            },
        )
    """
    result = run_pytest(pytester, text, "-k", "error-text or a-heartbeat or no-such")
    result.assert_outcomes(xfailed=1, failed=2, deselected=len(all_checks()) - 2)
    result.stdout.fnmatch_lines(["*XPASS(strict)*out of date*"])
    result.stdout.fnmatch_lines(["*a deviation names 'clause01-no-such-check'*"])


def test_a_parametrized_fixture_may_return_the_target(pytester):
    text = """
        import hypothesis
        import pytest
        from streamstores.conformance import contract_tests, model_tests

        @pytest.fixture(scope="module", params=["one", "two"])
        def target(request, tmp_path_factory):
            return f"sqlite:///{tmp_path_factory.mktemp(request.param)}/x.db"

        test_contract = contract_tests("target")
        few = hypothesis.settings(max_examples=3, deadline=None, database=None)
        test_model = model_tests("target", settings=few)
    """
    result = run_pytest(
        pytester, text, "-v", "-k", "clause10 and (create or declared) or model"
    )
    result.stdout.fnmatch_lines(
        ["*test_contract?two-clause10-capabilities-are-declared? PASSED*"]
    )
    result.stdout.fnmatch_lines(["*test_model?one? PASSED*"])
    assert result.ret == 0


def test_a_failure_shows_the_expected_value(pytester):
    text = """
        from streamstores.conformance import contract_tests
        from tests.contract.broken import BROKEN
        test_contract = contract_tests(BROKEN["LosesTheError"].make_store)
    """
    result = run_pytest(pytester, text, "-k", "error-text")
    result.stdout.fnmatch_lines(["E *AssertionError: result: expected*model fell over*"])


def test_the_suite_needs_neither_pytest_nor_hypothesis():
    code = (
        "import sys; sys.modules['pytest'] = sys.modules['hypothesis'] = None;"
        "del sys.modules['pytest'];"
        "from streamstores.conformance import *;"
        "loaded = {name for name, module in sys.modules.items() if module};"
        "assert not {'pytest', 'hypothesis', 'typer'} & loaded;"
        "checks = [c for c in all_checks() if c.clause == 3];"
        "assert run_checks(checks, target_of('memory://')).ok([3])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


async def test_what_took_too_long_leaves_no_error_that_nobody_has_read():
    """asyncio would log it during a garbage collection, in whichever test that is."""
    reported = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: reported.append(context)
    )
    with pytest.raises(AssertionError, match="nothing happened for 0.01 seconds"):
        await within(0.01, asyncio.gather(asyncio.sleep(60), asyncio.sleep(60)), "it")
    await asyncio.sleep(0)
    gc.collect()
    assert not reported
