"""The pictures of docs/performance.md are those of the last results."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from benchmarks import results
from benchmarks.charts import Bar, draw_charts, svg

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_pictures_are_those_of_the_last_results(tmp_path: Path) -> None:
    measured, _ = results.read(RESULTS / "latest.json")
    drawn = draw_charts(measured, tmp_path)
    assert [path.name for path in drawn] == ["glance.svg", "peers.svg", "servers.svg"]
    for path in drawn:
        committed = (RESULTS / path.name).read_text(encoding="utf-8")
        assert path.read_text(encoding="utf-8") == committed, "python -m benchmarks --table"


def test_a_picture_has_a_bar_for_each_figure_and_says_it_in_words() -> None:
    groups = [("appends", [Bar("ours", 2.0), Bar("theirs", 0.5)]), ("delay", [Bar("ours", 1)])]
    picture = ElementTree.fromstring(svg("A & B", groups))
    texts = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A & B", "appends", "delay", "ours", "theirs"} <= set(texts)
    assert [text for text in texts if text and text.endswith("\u00d7")] == [
        "2 \u00d7",
        "0.5 \u00d7",
        "1 \u00d7",
    ]
    bars = [
        (float(each.attrib["x"]), float(each.attrib["width"]))
        for each in picture.iter("{http://www.w3.org/2000/svg}rect")
        if each.attrib.get("height") == "12" and each.attrib["width"] != "12"
    ]
    better, worse, equal = bars
    assert better[0] == equal[0]  # both begin at the line
    assert round(sum(worse) - better[0], 1) == 0  # and the worse ends there
