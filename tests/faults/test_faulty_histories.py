"""Histories through a bad network: of the stores, and of stores that misjudge it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from streamstores.conformance import Target, target_of
from streamstores.conformance.assertions import PATIENCE
from streamstores.conformance.faults import FaultyNetwork
from streamstores.conformance.histories import run_history
from streamstores.conformance.histories.__main__ import main
from tests.faults.doubtful_stores import DOUBTFUL, NeverRecovers, Passing
from tests.services import postgres, redis, s3

SEEDS = 40
"""Enough for each wrong store; `python -m streamstores.conformance.histories` runs more."""

TIMEOUTS = {
    "postgres": {"timeout": 4, "command_timeout": 4},
    "redis": {"timeout": 4},
    "redis-6.2": {"timeout": 4},
    "s3": {"timeout": 6},
}
SLOW = ("redis-6.2", "s3")
POSTGRES = pytest.param("postgres", marks=pytest.mark.long)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty store on a server."""
    name = request.param
    with ExitStack() as stack:
        if name == "postgres":
            given = stack.enter_context(postgres.fresh_schema(postgres.shared()))
        elif name == "s3":
            given = s3.shared().url()
        else:
            variant = "valkey" if name == "redis" else name
            given = redis.with_own_prefix(redis.shared(variant))
        yield redis.with_options(given, **TIMEOUTS[name])


def run_faulty(url: str, seeds: range, **options: Any) -> FaultyNetwork:
    with FaultyNetwork(url, **options) as network:
        for seed in seeds:
            run_history(target_of(network.url), seed, network=network)
    return network


@pytest.mark.parametrize(
    "url",
    ["redis", "postgres", *(pytest.param(each, marks=pytest.mark.long) for each in SLOW)],
    indirect=True,
)
def test_histories_through_a_bad_network_have_an_explanation(url: str) -> None:
    network = run_faulty(url, range(7, 10))  # of which one has a second process
    assert sum(network.counts.values()) > 5


@pytest.mark.release
@pytest.mark.slow
@pytest.mark.parametrize("url", ["redis", "postgres", "s3"], indirect=True)
def test_many_histories_through_a_bad_network_have_an_explanation(url: str) -> None:
    run_faulty(url, range(100, 112))


@pytest.mark.parametrize("url", ["redis", POSTGRES], indirect=True)
@pytest.mark.parametrize("broken", DOUBTFUL)
def test_a_store_that_misjudges_a_lost_answer_is_caught(
    broken: type[Passing], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not on S3, whose store asks what came of a write before it is in doubt.
    if broken is NeverRecovers:
        monkeypatch.setattr(PATIENCE, "eventual", 1.0)
    with FaultyNetwork(url) as network, pytest.raises(AssertionError, match=r"^seed \d+: "):
        for seed in range(SEEDS):
            run_history(Target(partial(broken, network.url)), seed, network=network)


@pytest.mark.parametrize("url", ["redis"], indirect=True)
def test_only_a_bad_network_shows_that_a_store_misjudges_it(url: str) -> None:
    for broken in DOUBTFUL:
        for seed in range(3):
            run_history(Target(partial(broken, url)), seed)


@pytest.mark.parametrize("url", ["redis"], indirect=True)
def test_the_command_runs_histories_through_a_bad_network(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([url, "--faults", "--seeds", "2", "--first", "1", "--share", "0.2"]) == 0
    assert "faults explained in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("memory://", "has no network"),
        ("sqlite:///x.db", "has no network"),
        ("redis+cluster://a:1,b:2", "addresses of further servers"),
        ("redis+sentinel://a:1/streams", "addresses of further servers"),
        ("postgresql://a:1,b:2/x", "several servers"),
        ("s3://bucket/prefix", "endpoint_url"),
        ("s3://bucket/prefix?endpoint_url=https%3A%2F%2Fs3.example", "endpoint_url"),
        ("tests.stores:make_store", "needs a store URL"),
    ],
)
def test_the_command_says_which_stores_have_no_network_to_spoil(
    target: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([target, "--faults"]) == 2
    assert reason in capsys.readouterr().err
