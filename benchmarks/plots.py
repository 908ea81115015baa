"""One picture for each backend: how our figures compare to raw and to the peers.

Importing this needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot

from benchmarks.cases.case import RAW
from benchmarks.results import Result

mpl.use("Agg")


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Ratios to raw as bars, so oriented that longer is better."""
    paths = []
    for backend in dict.fromkeys(result.backend for result in results):
        rows = _rows([result for result in results if result.backend == backend])
        if rows:
            path = folder / f"{backend}.png"
            _draw(backend, rows, path)
            paths.append(path)
    return paths


def _rows(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """{figure: {subject: how many times as good as raw}}"""
    rows: dict[str, dict[str, float]] = {}
    for result in results:
        for name, measure in result.measures.items():
            if measure.ratio is None or result.subject == RAW or not measure.ratio.median:
                continue
            ratio = measure.ratio.median
            advantage = ratio if measure.better == "higher" else 1 / ratio
            rows.setdefault(f"{result.case}: {name}", {})[result.subject] = advantage
    return rows


def _draw(backend: str, rows: dict[str, dict[str, float]], path: Path) -> None:
    """Draw the advantages over raw of every subject, a row of bars per figure."""
    subjects = list(dict.fromkeys(subject for row in rows.values() for subject in row))
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.22 * len(rows) * (len(subjects) + 1)))
    height = 0.8 / len(subjects)
    for number, subject in enumerate(subjects):
        places = [
            row - 0.4 + (number + 0.5) * height
            for row, figures in enumerate(rows.values())
            if subject in figures
        ]
        lengths = [figures[subject] for figures in rows.values() if subject in figures]
        axes.barh(places, lengths, height, label=subject)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("times as good as the bare driver")
    axes.set_title(backend)
    axes.legend(loc="best", fontsize="small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
