"""Histories through a bad network to every server of a Cluster, and to a master and its
Sentinel."""

from __future__ import annotations

import pytest

from tests.faults.faulty_nodes import NODES, run_faulty_history
from tests.services import Unavailable, give_up

pytestmark = pytest.mark.long
SERVICES = {"cluster": "redis-cluster", "sentinel": "redis"}


@pytest.mark.parametrize("kind", NODES)
def test_histories_with_a_bad_network_before_every_node_have_an_explanation(kind: str) -> None:
    try:
        with NODES[kind]() as nodes:
            # The Sentinel is asked seldom, so it need not meet a fault; every master does.
            masters = nodes.networks if kind == "cluster" else nodes.networks[:1]
            for seed in range(4, 10):  # of which one has a second process
                run_faulty_history(nodes, seed)
            # A history has few streams: by chance, a master may have had none of them.
            for seed in range(10, 40):
                if not all(network.counts for network in masters):
                    run_faulty_history(nodes, seed)
            met = [network.counts for network in masters]
    except Unavailable as exc:
        give_up(SERVICES[kind], exc)
    assert all(met), met
