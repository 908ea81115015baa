"""Stores that break clause 10: many processes."""

from __future__ import annotations

from tests.contract.broken.registry import caught_by
from tests.contract.broken.wrapper import Wrapper


@caught_by("clause10-two-stores-append-to-one-stream")
class DeclaresManyProcessesWrongly(Wrapper):
    capabilities = Wrapper.capabilities | {"multi_process"}
