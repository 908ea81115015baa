"""`python -m streamstores.conformance.histories TARGET --seeds N`: histories by the hour."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from streamstores.conformance.faults import FaultyNetwork
from streamstores.conformance.harness import Target, target_of
from streamstores.conformance.histories.runner import run_history

_PROGRESS_SECONDS = 10.0
_BAD_REQUEST = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the histories; 1 if one of them has no explanation, 2 if they cannot be run."""
    given = _parser().parse_args(arguments)
    with ExitStack() as stack:
        if given.faults:
            # Stores and their drivers log every fault, which would hide the verdict.
            stack.callback(logging.disable, logging.root.manager.disable)
            logging.disable()
        try:
            network = FaultyNetwork(given.target, share=given.share) if given.faults else None
            if network is not None:
                stack.enter_context(network)
            target = target_of(given.target if network is None else network.url)
        except (ValueError, TypeError) as exc:
            print(exc, file=sys.stderr)
            return _BAD_REQUEST
        return _run(target, range(given.first, given.first + given.seeds), network)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m streamstores.conformance.histories")
    parser.add_argument("target", help="a store URL, or module:callable that returns a store")
    parser.add_argument("--seeds", type=int, default=100, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--faults", action="store_true", help="a bad network before the server of a store URL"
    )
    parser.add_argument(
        "--share", type=float, default=0.08, help="the part of all bursts that meet a fault"
    )
    return parser


def _run(target: Target, seeds: range, network: FaultyNetwork | None) -> int:
    """Run the seeds up to the first without an explanation, and print the verdict."""
    begin = shown = time.monotonic()
    calls = 0
    for seed in seeds:
        try:
            calls += len(run_history(target, seed, network=network).operations)
        except AssertionError as exc:
            print(exc)
            return 1
        if time.monotonic() > shown + _PROGRESS_SECONDS:
            shown = time.monotonic()
            print(f"seed {seed}: {calls} calls{_met(network)} so far", flush=True)
    seconds = time.monotonic() - begin
    met = _met(network)
    print(f"{len(seeds)} histories of {calls} calls{met} explained in {seconds:.0f} seconds")
    return 0


def _met(network: FaultyNetwork | None) -> str:
    return "" if network is None else f" and {sum(network.counts.values())} faults"


if __name__ == "__main__":
    sys.exit(main())
