"""Histories: concurrent clients by a seed, and a check that their results have an explanation.

Each history runs clients on two streams of a store: appends that are plain, or conditional on
`at` or `version`, creates, deletes and reads; some calls are cancelled, and some histories have
a client in a second process that is killed. Then every result must fit into one order of the
calls, by the contract:

- every call took effect at one moment between its call and its return;
- a mutation that was cancelled, whose process was killed or that raised `OutcomeUnknown` may
  take effect until the end; a mutation that raised `StoreUnavailable` did not;
- reads never raise `OutcomeUnknown`, and no exception of a driver is raised;
- bytes and records are exact, versions grow, a `Conflict` is justified, and no namesake has
  anything of the stream before it.

    python -m streamstores.conformance.histories sqlite:///check.db --seeds 1000
    python -m streamstores.conformance.histories redis://localhost --seeds 1000 --faults
"""

from __future__ import annotations

from streamstores.conformance.histories.operations import History, Operation
from streamstores.conformance.histories.runner import Spoiler, check_history, run_history

__all__ = ["History", "Operation", "Spoiler", "check_history", "run_history"]
