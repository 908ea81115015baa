"""Cases as data: the function that measures, and the unit and target of each figure."""

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
    """The bound for one of our figures: a minimum if higher is better, else a maximum."""

    bound: float
    of: str | None = RAW
    """The bound is for the ratio to this subject in the same round; if None, for the figure."""


class Metric(NamedTuple):
    name: str
    unit: str
    better: Literal["higher", "lower"]
    targets: Mapping[str, Target] = {}
    """By backend; on other backends the figure is shown without a target."""
    of_itself: bool = False
    """A ratio of two figures of the same subject. A slow start makes it look good, so peers
    are not compared by it."""

    def is_met(self, target: Target, figure: float) -> bool:
        """Whether a figure, or its ratio, keeps its target."""
        return figure >= target.bound if self.better == "higher" else figure <= target.bound


class Case(NamedTuple):
    name: str
    title: str
    run: Callable[[Trial], Awaitable[Mapping[str, float]]]
    """Returns figures by the names of metrics; a subject may lack some of them."""
    metrics: tuple[Metric, ...]
    backends: frozenset[str] = EVERYWHERE
    with_peers: bool = True
