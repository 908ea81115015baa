"""Three small pictures of the figures that readers ask for first, as SVG.

`docs/performance.md` shows them. They need no library, and the same results make the same
files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from benchmarks.cases.case import OURS, RAW
from benchmarks.results import Result

_WIDTH, _LABEL, _VALUE = 520, 168, 62
"""Small enough to be read on a phone."""
_BAR, _GAP, _TOP = 14, 12, 56
_COLORS = ("#2f5fd0", "#0b7a75", "#c2410c", "#7c3aed", "#64748b", "#a16207")


class Row(NamedTuple):
    """A figure: the case and measure, and how a reader would call it."""

    case: str
    measure: str
    label: str


class Bar(NamedTuple):
    series: str
    advantage: float
    """How many times as good as the bare driver."""


_STORES = ("sqlite", "postgres", "redis")
_GLANCE = (
    Row("append", "appends", "single appends"),
    Row("write", "records", "a writer at full speed"),
    Row("deliver-across", "p50", "delay to another process"),
    Row("followers", "cpu", "CPU of 100 followers"),
    Row("replay", "records", "replay of small records"),
    Row("replay-big", "rate", "replay of large records"),
)
_PEERS = (
    Row("append", "appends", "single appends"),
    Row("deliver-across", "p50", "delay, 1 stream"),
    Row("deliver-across-many", "p50", "delay, 100 streams"),
    Row("deliver-across-many", "connections", "connections, 100 streams"),
    Row("followers", "cpu", "CPU of 100 followers"),
    Row("replay", "records", "replay of small records"),
)
_SERVERS = (
    Row("serve-one", "p50", "delay, 1 reader"),
    Row("serve-many", "p50", "delay, 200 readers"),
    Row("serve-many", "cpu", "CPU, 200 readers"),
    Row("post", "posts", "appends by POST"),
)


def draw_charts(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write the pictures whose figures are in the results, and return their paths."""
    by_store = [
        (row.label, [bar for store in _STORES for bar in _bars(results, store, row, store)])
        for row in _GLANCE
    ]
    pictures = {
        "glance": ("Three stores beside their bare drivers", by_store),
        "peers": (
            "Redis: libraries beside bare redis-py",
            [(row.label, _bars(results, "redis", row)) for row in _PEERS],
        ),
        "servers": (
            "HTTP: servers beside a bare ASGI application",
            [(row.label, _bars(results, "http", row)) for row in _SERVERS],
        ),
    }
    paths = []
    for name, (title, groups) in pictures.items():
        found = [(label, bars) for label, bars in groups if bars]
        if found:
            path = folder / f"{name}.svg"
            path.write_text(svg(title, found), encoding="utf-8")
            paths.append(path)
    return paths


def _bars(results: Sequence[Result], backend: str, row: Row, series: str = "") -> list[Bar]:
    """The advantages of our figure, or of every subject's if no name is given for ours."""
    bars = []
    for result in results:
        measure = result.measures.get(row.measure)
        if (result.backend, result.case) != (backend, row.case) or measure is None:
            continue
        if result.subject == RAW or (series and result.subject != OURS):
            continue
        if measure.ratio is not None and measure.ratio.median:
            ratio = measure.ratio.median
            advantage = ratio if measure.better == "higher" else 1 / ratio
            bars.append(Bar(series or result.subject, advantage))
    return bars


def svg(title: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Bars on a logarithmic axis: to the right of the line is better than the bare driver."""
    series = list(dict.fromkeys(bar.series for _, bars in groups for bar in bars))
    advantages = [bar.advantage for _, bars in groups for bar in bars]
    low = math.floor(math.log10(min(*advantages, 1)))
    high = max(math.ceil(math.log10(max(*advantages, 1))), 1)
    scale = (_WIDTH - _LABEL - _VALUE) / (high - low)

    def x(advantage: float) -> float:
        return _LABEL + (math.log10(advantage) - low) * scale

    legend, y = _legend(series)
    top, body = y, []
    for label, bars in groups:
        middle = y + len(bars) * _BAR / 2 + 4
        body.append(
            f'<text x="{_LABEL - 10}" y="{middle:.0f}" text-anchor="end">{label}</text>'
        )
        for bar in bars:
            start, end = sorted((x(1), x(bar.advantage)))
            color = _COLORS[series.index(bar.series) % len(_COLORS)]
            body.append(
                f'<rect x="{start:.1f}" y="{y}" width="{max(end - start, 1):.1f}" '
                f'height="{_BAR - 2}" fill="{color}"/>'
                f'<text x="{end + 4:.1f}" y="{y + 10}">{_shown(bar.advantage)} \u00d7</text>'
            )
            y += _BAR
        y += _GAP
    axis = f'<path d="M{x(1):.1f} {top - 6}V{y - 4}" stroke="#111827"/>'
    note = f'<text x="{x(1):.1f}" y="{y + 12}" text-anchor="middle">1 = the bare driver</text>'
    return _document(title, y + 24, [*legend, *body, axis, note])


def _legend(series: Sequence[str]) -> tuple[list[str], int]:
    """The colours of the series, and the height at which the bars may begin."""
    if len(series) == 1:
        return [], _TOP - 16
    lines, x, y = [], 16, _TOP
    for number, name in enumerate(series):
        width = 34 + 7 * len(name)
        if x + width > _WIDTH:
            x, y = 16, y + 20
        color = _COLORS[number % len(_COLORS)]
        lines.append(
            f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{color}"/>'
            f'<text x="{x + 18}" y="{y}">{escape(name)}</text>'
        )
        x += width
    return lines, y + 24


def _shown(advantage: float) -> str:
    return f"{advantage:.0f}" if advantage >= 10 else f"{advantage:.2g}"


def _document(title: str, height: int, parts: Sequence[str]) -> str:
    """A picture that is readable on light and on dark pages, and to a screen reader."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#111827">\n'
        f"<title>{escape(title)}</title>\n"
        f'<rect width="{_WIDTH}" height="{height}" rx="8" fill="#ffffff"/>\n'
        f'<text x="16" y="28" font-size="14" font-weight="600">{escape(title)}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
