"""The soak, for seconds instead of half an hour: that it runs, and that it would fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.soak import MEASURES, growth_of, parser, soak


async def test_a_short_soak_of_a_store_in_memory_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    options = parser().parse_args(
        "memory --minutes 0.05 --every 0.3 --streams 4 --rate 50 --life 1 --followers 8"
        f" --small 0 --json {figures}".split()
    )
    assert await soak(options, "memory://") == 0, capsys.readouterr().out
    totals = json.loads(figures.read_text())["totals"]
    assert totals["written"] > 4
    assert totals["delivered"] > totals["written"] / 10
    assert not totals["errors"]


def sample(value: int) -> dict[str, int]:
    return dict.fromkeys(MEASURES, value)


def test_what_grows_is_named() -> None:
    flat = [sample(100_000_000)] * 8
    assert growth_of(flat) == []
    assert len(growth_of([*flat[:4], *[sample(200_000_000)] * 4])) == len(MEASURES)
    assert growth_of([*[sample(1)] * 2, *flat[2:]]) == [], "the first quarter warms up"
    wave = [sample(200_000_000), sample(100_000_000)]
    assert growth_of([*flat[:6], *wave]) == [], "a load goes up and down"
    assert "fewer than four samples" in growth_of(flat[:3])[0]
