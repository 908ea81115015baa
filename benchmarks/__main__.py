"""`python -m benchmarks`: run, write the JSON, the table and the plots."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from benchmarks import report, results, sizes
from benchmarks.cases import ALL
from benchmarks.charts import draw_charts
from benchmarks.runner import run
from benchmarks.services import BACKENDS
from benchmarks.subjects import SUBJECTS

FOLDER = Path(__file__).parent / "results"
_SCALES = {"full": sizes.FULL, "quick": sizes.QUICK, "tiny": sizes.TINY}


def main(arguments: list[str] | None = None) -> None:
    """Run the selected cases and write their results, or the table of earlier results."""
    options = _parser().parse_args(arguments)
    if options.table:
        _write_table(options.out)
        return
    scale = "tiny" if options.tiny else "quick" if options.quick else "full"
    rounds = options.rounds or (5 if scale == "full" else 1)
    measured = run(
        options.backend or BACKENDS,
        [ALL[name] for name in options.case or ALL],
        _SCALES[scale],
        rounds=rounds,
        subjects=frozenset(options.subject) if options.subject else None,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    results.save(options.out, measured, scale=scale, rounds=rounds)
    _write_table(options.out)


def _write_table(out: Path) -> None:
    measured, facts = results.read(out)
    table = report.markdown(measured, facts)
    out.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)
    draw_charts(measured, out.parent)
    if find_spec("matplotlib") is None:
        print("no plots: matplotlib is not installed", file=sys.stderr)
    else:
        import_module("benchmarks.plots").draw(measured, out.parent)


def _parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    names = sorted({name for subjects in SUBJECTS.values() for name in subjects})
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--backend", action="append", choices=BACKENDS, help="only this one; repeatable")
    add("--case", action="append", choices=sorted(ALL), help="only this one; repeatable")
    add("--subject", action="append", choices=names, help="only this one; repeatable")
    add("--rounds", type=int, help="paired rounds: 5, with --quick 1")
    add("--quick", action="store_true", help="smaller sizes, under three minutes in all")
    add("--tiny", action="store_true", help="only to see that everything runs")
    add("--table", action="store_true", help="measure nothing: table and plots of --out")
    add("--out", type=Path, default=FOLDER / "latest.json", help="the JSON file to write")
    return parser


if __name__ == "__main__":
    main()
