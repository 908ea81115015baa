"""The runner of histories: one for each seed, and the verdict on it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from streamstores.conformance.assertions import PATIENCE, within
from streamstores.conformance.harness import Harness, Target, run_in_own_loop
from streamstores.conformance.histories.linearizability import longest_explanation
from streamstores.conformance.histories.operations import History, Operation
from streamstores.conformance.histories.workload import run_clients
from streamstores.store import StreamInfo

__all__ = ["Spoiler", "check_history", "run_history"]

_SHOWN_OPERATIONS = 40


class Spoiler(Protocol):
    """What makes the network bad while clients work: a `FaultyNetwork`, or one of yours."""

    def spoil(self, seed: int) -> AbstractContextManager[object]:
        """Spoil what passes, by a seed, while the block runs."""
        ...


def run_history(target: Target, seed: int, *, network: Spoiler | None = None) -> History:
    """Run the clients of a seed, in a new event loop, and check what they saw.

    Raises `AssertionError`, which shows the history, if no order of the calls explains it.
    On a store whose calls never wait, a seed gives the same history every time; elsewhere it
    gives the same calls.

    `network` is spoilt while the clients work, and good when stores are opened and when every
    stream is read at the end. `target` must reach its server through it.
    """
    __tracebackhide__ = True
    history = run_in_own_loop(_run(target, seed, network))
    check_history(history)
    return history


async def _run(target: Target, seed: int, network: Spoiler | None) -> History:
    async with Harness(target) as harness:
        store = await harness.open()
        has_processes = "multi_process" in store.capabilities and target.second_process
        # A process takes as long to start as a whole history without.
        is_used = bool(has_processes) and seed % 8 == 0
        spoilt = nullcontext() if network is None else network.spoil(seed)
        running = run_clients(harness, seed, is_second_process_used=is_used, spoilt=spoilt)
        return await within(PATIENCE.whole_check, running, f"the clients of seed {seed}")


def check_history(history: History) -> None:
    """Raise `AssertionError` unless the contract allows the history."""
    __tracebackhide__ = True
    if history.faults:
        raise AssertionError(f"seed {history.seed}: {history.faults[0]}")
    # Each stream by itself, because the contract orders nothing between streams, and the search
    # grows exponentially with the number of operations.
    for stream_id in dict.fromkeys(each.stream_id for each in history.operations):
        operations = [each for each in history.operations if each.stream_id == stream_id]
        _check_versions(history.seed, operations)
        order = longest_explanation(operations)
        if any(not each.is_unknown and each not in order for each in operations):
            raise AssertionError(_unexplained(history.seed, operations, order))


def _check_versions(seed: int, operations: Sequence[Operation]) -> None:
    """Raise `AssertionError` if a stream and its namesake have had the same version."""
    owners: dict[int, StreamInfo] = {}
    for operation in operations:
        info = getattr(operation.result, "info", operation.result)
        if isinstance(info, StreamInfo):
            owner = owners.setdefault(info.version, info)
            if owner.created_at != info.created_at:
                text = f"seed {seed}: two streams of an id had the version {info.version}"
                raise AssertionError(f"{text}: {owner} and {info}")


def _unexplained(seed: int, operations: list[Operation], order: list[Operation]) -> str:
    """The history of a stream, with the operations that the longest explanation holds."""
    lines = [
        f"seed {seed}: no order of these calls explains their results. The longest that does",
        f"holds the {len(order)} marked with their place; the others do not fit after them:",
    ]
    places = {id(operation): place for place, operation in enumerate(order, 1)}
    lines += [
        f"  {places.get(id(each), ''):>3}  {each}" for each in operations[-_SHOWN_OPERATIONS:]
    ]
    return "\n".join(lines)
