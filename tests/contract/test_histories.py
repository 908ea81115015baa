"""Histories of concurrent clients on every store, and their checker on broken stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamstores.conformance import Target, target_of
from streamstores.conformance.histories import History, Operation, check_history, run_history
from streamstores.errors import Conflict, StreamExists, StreamNotFound
from streamstores.store import Page, Record, State, StreamInfo
from tests.contract.broken import BROKEN, Wrapper, histories
from tests.services import postgres, redis, s3

SEEDS = 60
"""Enough for each broken store; `python -m streamstores.conformance.histories` runs more."""

FAULTY: dict[str, Callable[[], Any]] = {
    store.__name__: store
    for store in (
        histories.AcknowledgesBeforeItCommits,
        histories.AppliesACancelledAppendInPart,
        histories.DeletesAfterItReturns,
        histories.HidesThatItMayHaveApplied,
        histories.LeaksADriversException,
        histories.LosesAnAcknowledgedAppend,
        histories.RaisesOutcomeUnknownFromRead,
        histories.ReadsFromAStaleReplica,
        histories.ReportsAConflictWithoutReason,
        histories.RetriesAnAppendThatLanded,
    )
} | {
    name: BROKEN[name].make_store
    for name in (
        "BeginsWithVersionOne",
        "CachesRecordsByIdAndOffset",
        "CreateOverwrites",
        "IgnoresHeartbeats",
        "JoinsTheChunksOfAnAppend",
        "LetsTwoAppendsAtAnOffsetWin",
        "LetsTwoCreatesWin",
        "LetsTwoTakeoversWin",
        "MergesAttributes",
        "ReadsRecordsAndInfoApart",
        "ReopensStoppedStreamsByAccident",
        "ServesInfoFromACache",
    )
}


@pytest.mark.parametrize("name", FAULTY)
def test_the_histories_of_a_broken_store_have_no_explanation(name: str) -> None:
    with pytest.raises(AssertionError, match=r"^seed \d+: "):
        for seed in range(SEEDS):
            run_history(Target(FAULTY[name]), seed)


def test_the_histories_of_an_unbroken_store_have_an_explanation() -> None:
    for seed in range(3 * SEEDS):
        run_history(Target(Wrapper), seed)


def test_a_seed_gives_the_same_history_again() -> None:
    first, second = (run_history(Target(Wrapper), 7) for _ in range(2))
    named = [[(each.client, each.name) for each in run.operations] for run in (first, second)]
    assert named[0] == named[1]


STORES = ("memory", "sqlite", "postgres", "redis", "redis-cluster", "s3")


SLOW = {"redis-cluster", "s3"}


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.long) if name in SLOW else name for name in STORES
    ]
)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    if request.param == "memory":
        yield target_of("memory://")
    elif request.param == "sqlite":
        yield target_of(f"sqlite:///{tmp_path}/streams.db")
    elif request.param == "postgres":
        with postgres.fresh_schema(postgres.shared()) as url:
            yield target_of(url)
    elif request.param == "s3":
        yield target_of(s3.shared().url())
    else:
        variant = "cluster" if request.param == "redis-cluster" else "valkey"
        yield target_of(redis.with_own_prefix(redis.shared(variant)))


def test_the_histories_of_each_store_have_an_explanation(target: Target) -> None:
    for seed in range(17):  # of which three have a second process
        run_history(target, seed)


@pytest.mark.release
@pytest.mark.slow
def test_many_histories_of_each_store_have_an_explanation(
    target: Target, request: pytest.FixtureRequest
) -> None:
    count = 12 if "s3" in request.node.name else 40  # a history there takes five seconds
    for seed in range(100, 100 + count):
        run_history(target, seed)


# ---- the checker


def info(tail: int, version: int, state: State = State.STREAMING) -> StreamInfo:
    fields: dict[str, Any] = dict.fromkeys(StreamInfo._fields)
    fields |= {"id": "s", "state": state, "tail": tail, "version": version, "attributes": {}}
    return StreamInfo(**fields)


def operation(
    name: str, began: int, ended: int | None, result: Any, **arguments: Any
) -> Operation:
    return Operation("client", name, "s", arguments, began, ended, result)


CREATED = operation("create", 0, 1, info(0, 1))


def page(data: bytes, version: int) -> Page:
    return Page([Record(0, data)], len(data), info(len(data), version))


@pytest.mark.parametrize(
    "operations",
    [
        [operation("info", 0, 1, StreamNotFound("s")), operation("create", 2, 3, info(0, 1))],
        # two that overlap may take effect in either order
        [
            CREATED,
            operation("append", 2, 5, info(2, 3), chunks=(b"b",)),
            operation("append", 3, 4, info(1, 2), chunks=(b"a",)),
            operation("info", 6, 7, info(2, 3)),
        ],
        # the append of unknown outcome was applied, long after its call
        [
            CREATED,
            operation("append", 2, None, None, chunks=(b"a",)),
            operation("info", 3, 4, info(0, 1)),
            operation("info", 5, 6, info(1, 2)),
        ],
        # it was never applied
        [CREATED, operation("delete", 2, None, None), operation("info", 3, 4, info(0, 1))],
        [CREATED, operation("append", 2, 3, Conflict("", info(0, 1)), version=7)],
        [CREATED, operation("create", 2, 3, StreamExists("", info(0, 1)))],
    ],
)
def test_the_checker_explains_histories_that_the_contract_allows(
    operations: list[Operation],
) -> None:
    check_history(History(0, operations))


@pytest.mark.parametrize(
    "operations",
    [
        [operation("info", 0, 1, info(0, 1)), operation("create", 2, 3, info(0, 1))],
        # the first append had returned before the second began
        [
            CREATED,
            operation("append", 2, 3, info(2, 3), chunks=(b"b",)),
            operation("append", 4, 5, info(1, 2), chunks=(b"a",)),
        ],
        # an acknowledged append is lost
        [
            CREATED,
            operation("append", 2, 3, info(1, 2), chunks=(b"a",)),
            operation("info", 4, 5, info(0, 1)),
        ],
        # an append in doubt appears and is gone again
        [
            CREATED,
            operation("append", 2, None, None, chunks=(b"a",)),
            operation("info", 3, 4, info(1, 2)),
            operation("info", 5, 6, info(0, 1)),
        ],
        # it appears twice
        [
            CREATED,
            operation("append", 2, None, None, chunks=(b"a",)),
            operation("read", 3, 4, page(b"aa", 3)),
        ],
        [CREATED, operation("append", 2, 3, Conflict("", info(0, 1)), version=1)],
        [CREATED, operation("append", 2, 3, info(1, 1), chunks=(b"a",))],
        [CREATED, operation("append", 2, 3, info(1, 2), chunks=(b"a",), at=5)],
        [CREATED, operation("create", 2, 3, info(0, 2))],
    ],
)
def test_the_checker_rejects_histories_that_the_contract_forbids(
    operations: list[Operation],
) -> None:
    with pytest.raises(AssertionError, match="no order of these calls"):
        check_history(History(0, operations))
