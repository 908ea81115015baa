"""The results as a Markdown table for each case."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from benchmarks.cases.case import OURS
from benchmarks.results import Measure, Result, Spread

_GLANCE = "| backend | figure | streamstores | of raw | of the best peer | target |"
_HEAD = "| backend | subject | figure | median (lowest to highest) | ratio to raw | target |"


def markdown(results: Sequence[Result], facts: dict[str, Any]) -> str:
    """A table of our figures, then the figures in which a peer is ahead, then all figures."""
    lines = [_facts(facts), "", *_glance(results), "", *_behind(results)]
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


def _glance(results: Sequence[Result]) -> list[str]:
    """The first figure of each case, and those that have a target."""
    rows = [
        f"| {ours.backend} | {ours.title}: {name}, {measure.unit} | {_value(measure.value)} "
        f"| {_ratio(measure.ratio)} | {_best_peer(measure)} | {_target(measure)} |"
        for ours in results
        if ours.subject == OURS
        for place, (name, measure) in enumerate(ours.measures.items())
        if place == 0 or measure.target
    ]
    return [_GLANCE, "|" + "---|" * 6, *rows]


def _best_peer(measure: Measure) -> str:
    if not measure.peers:
        return ""
    worst = min if measure.better == "higher" else max
    name, ratio = worst(measure.peers.items(), key=lambda peer: peer[1].median)
    return f"{_value(ratio)} {name}"


def _behind(results: Sequence[Result]) -> list[str]:
    """Every figure in which a peer is ahead of us: said, not left to be found."""
    lines = [
        f"- {ours.backend}, {ours.title}: {name}, {_value(ratio)} times {peer}'s."
        for ours in results
        if ours.subject == OURS
        for name, measure in ours.measures.items()
        for peer, ratio in measure.peers.items()
        if (ratio.median < 1 if measure.better == "higher" else ratio.median > 1)
    ]
    if not lines:
        return ["No peer is ahead in any figure that both have."]
    return ["A peer is ahead here (ratios of the same round):", "", *lines]
