"""Histories with a bad network before every server of a Cluster, or a master and its Sentinel.

    python -m tests.faults.faulty_nodes cluster --seeds 200

A `FaultyNetwork` stands before one server, and a store learns the addresses of the others from
that one, past the network. So here each server announces its network's address as its own.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial

from streamstores.conformance import target_of
from streamstores.conformance.faults import FaultyNetwork
from streamstores.conformance.histories import run_history
from tests.services.redis import (
    Sentinel,
    Server,
    own_cluster,
    own_sentinel_of,
    own_server,
    wait_until,
    with_options,
)

TIMEOUT_SECONDS = 4.0


class FaultyNodes:
    """Several networks that are spoilt together."""

    def __init__(self, url: str, networks: Sequence[FaultyNetwork]) -> None:
        self.url = with_options(url, timeout=TIMEOUT_SECONDS)
        self.networks = networks

    @property
    def count(self) -> int:
        """How many faults there were."""
        return sum(sum(network.counts.values()) for network in self.networks)

    @contextmanager
    def spoil(self, seed: int) -> Generator[None, None, None]:
        with ExitStack() as stack:
            for number, network in enumerate(self.networks):
                stack.enter_context(network.spoil(seed * len(self.networks) + number))
            yield


@contextmanager
def faulty_cluster() -> Generator[FaultyNodes, None, None]:
    """Three masters, each behind a network of its own. Raises `Unavailable`."""
    with own_cluster() as servers, ExitStack() as stack:
        networks = [stack.enter_context(FaultyNetwork(server.url)) for server in servers]
        ports = [b"127.0.0.1:%d@" % network.port for network in networks]

        def hears_of_all(server: Server) -> bool:
            return all(port in server.ask("CLUSTER", "NODES") for port in ports)

        for server, network in zip(servers, networks, strict=True):
            server.ask("CONFIG", "SET", "cluster-announce-port", network.port)
        for server in servers:  # the masters tell each other every second
            wait_until(partial(hears_of_all, server), "the masters to announce their networks")
        addresses = ",".join(f"127.0.0.1:{network.port}" for network in networks)
        yield FaultyNodes(f"redis+cluster://{addresses}", networks)


@contextmanager
def faulty_sentinel() -> Generator[FaultyNodes, None, None]:
    """A master and the Sentinel that watches it, each behind a network. Raises `Unavailable`.

    The Sentinel reaches the master through the bad network too.
    """
    with (
        own_server() as master,
        FaultyNetwork(master.url) as before_master,
        own_sentinel_of(before_master.port) as sentinel,
        FaultyNetwork(sentinel.url) as before_sentinel,
    ):
        url = f"redis+sentinel://127.0.0.1:{before_sentinel.port}/{Sentinel.NAME}"
        yield FaultyNodes(url, [before_master, before_sentinel])


NODES: dict[str, Callable[[], AbstractContextManager[FaultyNodes]]] = {
    "cluster": faulty_cluster,
    "sentinel": faulty_sentinel,
}


def run_faulty_history(nodes: FaultyNodes, seed: int) -> int:
    """How many calls the clients made; raises `AssertionError` if they have no explanation."""
    return len(run_history(target_of(nodes.url), seed, network=nodes).operations)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.faulty_nodes")
    parser.add_argument("nodes", choices=NODES)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable()  # the store logs every fault
    begun_at, calls = time.monotonic(), 0
    with NODES[arguments.nodes]() as nodes:
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            try:
                calls += run_faulty_history(nodes, seed)
            except AssertionError as exc:
                print(exc, flush=True)
                return 1
            if seed % 10 == 9:
                seconds = time.monotonic() - begun_at
                met = f"{calls} calls, {nodes.count} faults, {seconds:.0f} s"
                print(f"seed {seed}: {met}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
