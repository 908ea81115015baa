"""Benchmarks: our stores, the bare drivers and other projects, paired in one run.

`python -m benchmarks` runs them; `benchmarks/README.md` says what is measured and how to read
the table.
"""
