"""Faults for tests of stores: a bad network, and processes that are killed, frozen, restarted.

    with FaultyNetwork("redis://localhost:6379") as network:
        run_history(target_of(network.url), seed=7, network=network)

- `FaultyNetwork` is before the server of a store URL, and spoils what passes, by a seed.
- `Proxy` is its part without a seed: a test cuts, mutes and holds back by hand.
- `ServerProcess` is a child process that a test may kill, freeze and start again.

It needs no pytest. A store in memory or in a file has no network to spoil.
"""

from __future__ import annotations

from streamstores.conformance.faults.fault_schedule import Fault, FaultSchedule
from streamstores.conformance.faults.faulty_network import FaultyNetwork
from streamstores.conformance.faults.proxy import Proxy
from streamstores.conformance.faults.server_process import ProcessEnded, ServerProcess

__all__ = [
    "Fault",
    "FaultSchedule",
    "FaultyNetwork",
    "ProcessEnded",
    "Proxy",
    "ServerProcess",
]
