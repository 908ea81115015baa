"""The results as a Markdown table for each case."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from benchmarks.cases.case import RAW
from benchmarks.results import Measure, Result, Spread

_HEAD = "| backend | subject | figure | median (lowest to highest) | ratio to raw | target |"


def markdown(results: Sequence[Result], facts: dict[str, Any]) -> str:
    lines = [_facts(facts), "", *_behind(results)]
    cases = sorted(results, key=lambda result: _order(results, result.case))
    for title, group in groupby(cases, key=lambda result: result.title):
        lines += ["", f"### {title}", "", _HEAD, "|" + "---|" * 6]
        for result in group:
            lines += _rows(result)
    return "\n".join(lines) + "\n"


def _order(results: Sequence[Result], case: str) -> int:
    return next(i for i, result in enumerate(results) if result.case == case)


def _facts(facts: dict[str, Any]) -> str:
    host = facts["host"]
    packages = ", ".join(f"{name} {number}" for name, number in host["packages"].items())
    return (
        f"{facts['rounds']} paired rounds at scale “{facts['scale']}”; {host['cpus']} CPUs "
        f"({host['machine']}, {host['system']}), {host['implementation']} {host['python']}; "
        f"{packages}."
    )


def _rows(result: Result) -> list[str]:
    if result.failure is not None:
        return [f"| {result.backend} | {result.subject} | failed: {result.failure} | | | |"]
    return [
        f"| {result.backend} | {result.subject} | {name}, {measure.unit} "
        f"| {_value(measure.value)} | {_ratio(measure.ratio)} | {_target(measure)} |"
        for name, measure in result.measures.items()
    ]


def _value(value: Spread) -> str:
    text = number(value.median)
    if value.lowest == value.highest:
        return text
    return f"{text} ({number(value.lowest)} to {number(value.highest)})"


def _ratio(ratio: Spread | None) -> str:
    return "" if ratio is None else _value(ratio)


def _target(measure: Measure) -> str:
    if not measure.target:
        return ""
    verdict = {True: "kept", False: "**missed**", None: "not comparable"}[measure.is_met]
    return f"{measure.target}: {verdict}"


def number(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.1e}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def _behind(results: Sequence[Result]) -> list[str]:
    """Every figure in which a peer is ahead of us: said, not left to be found."""
    lines = [
        f"- {ours.backend}, {ours.title}, {name} in {measure.unit}: {peer} "
        f"{number(theirs.value.median)}, streamstores {number(measure.value.median)}."
        for ours in results
        if ours.subject == "streamstores"
        for name, measure in ours.measures.items()
        for peer, theirs in _peers(results, ours, name)
        if _is_ahead(theirs, measure)
    ]
    if not lines:
        return ["No peer is ahead in any figure that both have."]
    return ["A peer is ahead here:", "", *lines]


def _peers(results: Sequence[Result], ours: Result, metric: str) -> list[tuple[str, Measure]]:
    return [
        (each.subject, each.measures[metric])
        for each in results
        if (each.backend, each.case) == (ours.backend, ours.case)
        and each.subject not in (RAW, "streamstores")
        and metric in each.measures
    ]


def _is_ahead(theirs: Measure, ours: Measure) -> bool:
    if theirs.better == "higher":
        return theirs.value.median > ours.value.median
    return theirs.value.median < ours.value.median
