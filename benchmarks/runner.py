"""Runs cases in paired rounds: within each round every subject in turn, in a rotated order."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from tests.services import Unavailable

from benchmarks.cases.case import OURS, RAW, Case
from benchmarks.results import Figures, Result
from benchmarks.services import Service, service
from benchmarks.sizes import FULL, TINY, Sizes
from benchmarks.subjects import SUBJECTS, NotOffered, load
from benchmarks.trial import Trial

TRIAL_SECONDS = 60.0

Report = Callable[[str], None]


def run(
    backends: Sequence[str],
    cases: Iterable[Case],
    sizes: Sizes,
    *,
    rounds: int,
    subjects: frozenset[str] | None = None,
    report: Report = lambda _line: None,
) -> list[Result]:
    """The results of all cases on all backends; a backend that cannot run here is reported
    and left out, and so is a subject whose package is not installed."""
    cases = list(cases)
    results: list[Result] = []
    for backend in backends:
        names = installed(backend, subjects, report)
        wanted = [case for case in cases if backend in case.backends]
        if not wanted:
            continue
        try:
            with service(backend) as running:
                for case in wanted:
                    results += _run_case(backend, case, names, sizes, rounds, running, report)
        except (ImportError, Unavailable) as exc:
            report(f"{backend}: left out, {exc}")
    return results


def installed(backend: str, subjects: frozenset[str] | None, report: Report) -> list[str]:
    names = []
    for name in SUBJECTS[backend]:
        if subjects is not None and name not in subjects:
            continue
        try:
            load(backend, name)
        except ImportError as exc:
            report(f"{backend}, {name}: left out, {exc}")
        else:
            names.append(name)
    return names


def _run_case(
    backend: str,
    case: Case,
    names: Sequence[str],
    sizes: Sizes,
    rounds: int,
    running: Service,
    report: Report,
) -> list[Result]:
    """Run the rounds; at full size a tiny round warms up first."""
    started = time.monotonic()
    if not case.with_peers:
        names = [name for name in names if name in (RAW, OURS)]
    paired = _Rounds(partial(_attempt, backend, case, running), names)
    if sizes is FULL:
        paired.play(TINY)
        paired.forget_figures()
    for _ in range(rounds):
        paired.play(sizes)
    for name, why in paired.failures.items():
        report(f"{backend}, {case.name}, {name}: failed, {why}")
    report(f"{backend}, {case.name}: {time.monotonic() - started:.1f} s")
    return [
        Result.of(backend, case, name, paired.figures, paired.failures.get(name))
        for name in names
        if name not in paired.not_offered
    ]


class _Rounds:
    """Rounds in which each subject has its turn, the order rotated by one each time."""

    def __init__(self, attempt: Callable[[str, Sizes], Figures], names: Sequence[str]) -> None:
        self.failures: dict[str, str] = {}
        self.not_offered: set[str] = set()
        self._attempt = attempt
        self._order = list(names)
        self.forget_figures()

    def forget_figures(self) -> None:
        self.figures: dict[str, list[Figures]] = {name: [] for name in self._order}

    def play(self, sizes: Sizes) -> None:
        for name in self._order:
            self.figures[name].append(self._turn(name, sizes))
        self._order = self._order[1:] + self._order[:1]

    def _turn(self, name: str, sizes: Sizes) -> Figures:
        if name in self.not_offered or name in self.failures:
            return {}
        try:
            return self._attempt(name, sizes)
        except NotOffered:
            self.not_offered.add(name)
        except Exception as exc:
            self.failures[name] = f"{type(exc).__name__}: {exc}"
        return {}


def _attempt(backend: str, case: Case, running: Service, name: str, sizes: Sizes) -> Figures:
    with running.fresh() as url, running.fresh() as other_url:
        trial = Trial(backend, name, url, other_url, sizes, running.load)
        gc.collect()
        return asyncio.run(_within_time(case, trial))


async def _within_time(case: Case, trial: Trial) -> Figures:
    return await asyncio.wait_for(case.run(trial), TRIAL_SECONDS)
