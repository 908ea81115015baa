"""`python -m streamstores.conformance.histories TARGET --seeds N`: histories by the hour."""

from __future__ import annotations

import argparse
import sys
import time

from streamstores.conformance.harness import target_of
from streamstores.conformance.histories.runner import run_history

_PROGRESS_SECONDS = 10.0


def main() -> int:
    """Run the histories; 1 if one of them has no explanation."""
    parser = argparse.ArgumentParser(prog="python -m streamstores.conformance.histories")
    parser.add_argument("target", help="a store URL, or module:callable that returns a store")
    parser.add_argument("--seeds", type=int, default=100, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    target = target_of(arguments.target)
    begin = shown = time.monotonic()
    calls = 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        try:
            calls += len(run_history(target, seed).operations)
        except AssertionError as exc:
            print(exc)
            return 1
        if time.monotonic() > shown + _PROGRESS_SECONDS:
            shown = time.monotonic()
            print(f"seed {seed}: {calls} calls so far", flush=True)
    seconds = time.monotonic() - begin
    print(f"{arguments.seeds} histories of {calls} calls explained in {seconds:.0f} seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
