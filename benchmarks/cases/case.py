"""What is measured, as data: each case a function, and for each figure its unit and target."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple

from benchmarks.services import BACKENDS
from benchmarks.trial import Trial

EVERYWHERE = frozenset(BACKENDS)
ACROSS_PROCESSES = EVERYWHERE - {"memory"}


class Target(NamedTuple):
    """The bound a figure of ours is to keep: at least where higher is better, else at most."""

    bound: float
    of: Literal["ratio", "value"] = "ratio"
    """Of the ratio to raw in the same round, or of the figure itself."""


class Metric(NamedTuple):
    name: str
    unit: str
    better: Literal["higher", "lower"]
    targets: Mapping[str, Target] = {}
    """By backend; elsewhere the figure is shown without judgement."""

    def is_met(self, target: Target, ratio: float | None, value: float) -> bool | None:
        """Whether a figure keeps its target; None where there is nothing to compare."""
        figure = ratio if target.of == "ratio" else value
        if figure is None:
            return None
        return figure >= target.bound if self.better == "higher" else figure <= target.bound


class Case(NamedTuple):
    name: str
    title: str
    run: Callable[[Trial], Awaitable[Mapping[str, float]]]
    """Figures by the names of the metrics; one left out has none for this subject."""
    metrics: tuple[Metric, ...]
    backends: frozenset[str] = EVERYWHERE
    with_peers: bool = True
