"""What is measured, as data: each case a function, and for each figure its unit and target."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple

from benchmarks.services import STORES
from benchmarks.trial import Trial

EVERYWHERE = frozenset(STORES)
ACROSS_PROCESSES = EVERYWHERE - {"memory"}


RAW = "raw"
OURS = "streamstores"


class Target(NamedTuple):
    """The bound a figure of ours is to keep: at least where higher is better, else at most."""

    bound: float
    of: str | None = RAW
    """Of the ratio to this subject in the same round; None: of the figure itself."""


class Metric(NamedTuple):
    name: str
    unit: str
    better: Literal["higher", "lower"]
    targets: Mapping[str, Target] = {}
    """By backend; elsewhere the figure is shown without judgement."""
    of_itself: bool = False
    """A ratio of two figures of one subject, so that a slow start makes it look good: peers
    are not compared by it."""

    def is_met(self, target: Target, figure: float) -> bool:
        """Whether a figure, or its ratio, keeps its target."""
        return figure >= target.bound if self.better == "higher" else figure <= target.bound


class Case(NamedTuple):
    name: str
    title: str
    run: Callable[[Trial], Awaitable[Mapping[str, float]]]
    """Figures by the names of the metrics; one left out has none for this subject."""
    metrics: tuple[Metric, ...]
    backends: frozenset[str] = EVERYWHERE
    with_peers: bool = True
