"""The benchmarks run, and their results have the right shape. What they measure is not looked
at here: nothing timed is asserted outside benchmarks/."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import one_token, report, results
from benchmarks.cases import ALL
from benchmarks.cases.case import Metric, Target
from benchmarks.results import Result
from benchmarks.runner import installed, run
from benchmarks.sizes import TINY
from benchmarks.subjects.chat import BareASGI

OURS_AND_RAW = frozenset({"raw", "streamstores"})


@pytest.mark.long
def test_every_case_of_memory_gives_a_figure_for_each_metric_and_a_ratio_to_raw() -> None:
    measured = _run("memory", [name for name in ALL if not name.startswith("deliver-many")])
    assert {result.subject for result in measured} == OURS_AND_RAW
    for result in measured:
        assert result.failure is None
        names = {metric.name for metric in ALL[result.case].metrics}
        assert set(result.measures) == names
        for measure in result.measures.values():
            assert measure.value.lowest <= measure.value.median <= measure.value.highest
            assert measure.ratio is not None


@pytest.mark.long
def test_sqlite_is_appended_to_replayed_and_followed_from_another_process() -> None:
    measured = _run("sqlite", ["append", "write", "replay", "deliver-across"])
    assert [result.failure for result in measured] == [None] * 8
    delivered = [result for result in measured if result.case == "deliver-across"]
    assert [result.measures["delivered"].value.median for result in delivered] == [1.0, 1.0]


@pytest.mark.long
async def test_the_steps_of_one_token_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_token, "SECONDS", 1)
    found = await one_token.profile("ours", "memory://", traced=False)
    assert found["turns of the loop"] > 0
    assert found["CPU, µs"] > 0


def test_a_subject_whose_server_is_not_installed_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BareASGI, "needs", ("no_such_module",))
    told: list[str] = []
    left = installed("chat-memory", None, told.append)
    assert "raw, bare ASGI" not in left
    assert "streamstores" in left
    assert "chat-memory, raw, bare ASGI: left out, no_such_module is not installed" in told


def test_results_come_back_from_their_file_and_become_a_table(tmp_path: Path) -> None:
    measured = _run("memory", ["append"])
    path = tmp_path / "results.json"
    results.save(path, measured, scale="tiny", rounds=2)
    read, facts = results.read(path)
    assert [result[:4] for result in read] == [result[:4] for result in measured]
    assert facts["host"]["packages"]["streamstores"]
    table = report.markdown(read, facts)
    assert "### Append, one after another" in table
    assert "| memory | streamstores | appends, 1/s |" in table


def test_a_failed_trial_is_in_the_results_and_in_the_table() -> None:
    case = ALL["append"]
    failed = Result.of("memory", case, "streamstores", {"streamstores": []}, "it broke")
    assert failed.measures == {}
    facts = {"host": {**results.host(), "packages": {}}, "scale": "tiny", "rounds": 1}
    assert "failed: it broke" in report.markdown([failed], facts)


def test_a_peer_that_is_ahead_is_named_above_the_tables() -> None:
    case = ALL["append"]
    figures = {"streamstores": [{"appends": 10.0}], "peer": [{"appends": 11.0}]}
    both = [Result.of("redis", case, name, figures, None) for name in figures]
    facts = {"host": {**results.host(), "packages": {}}, "scale": "tiny", "rounds": 1}
    table = report.markdown(both, facts)
    assert "- redis, Append, one after another: appends, 0.91 times peer's." in table
    assert "| 0.91 peer |" in table


@pytest.mark.parametrize(
    ("better", "ratio", "is_met"),
    [
        ("higher", 0.9, True),
        ("higher", 0.8, False),
        ("lower", 0.8, True),
        ("lower", 0.9, False),
    ],
)
def test_a_target_bounds_a_figure_on_its_better_side(
    better: str, ratio: float, is_met: bool
) -> None:
    metric = Metric("figure", "s", better)  # type: ignore[arg-type]  # one of its two words
    assert metric.is_met(Target(0.85), ratio) is is_met


def _run(backend: str, cases: list[str]) -> list[Result]:
    chosen = [ALL[name] for name in cases]
    measured = run([backend], chosen, TINY, rounds=1, subjects=OURS_AND_RAW)
    wanted = [name for name in cases if backend in ALL[name].backends]
    assert [result.case for result in measured] == [name for name in wanted for _ in range(2)]
    return measured
