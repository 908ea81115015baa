"""The command `bench`: a quick figure for one store, beside its driver alone."""

from streamstores.cli.bench.command import add_bench

__all__ = ["add_bench"]
