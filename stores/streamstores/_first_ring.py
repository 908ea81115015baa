"""A subscription that begins the work of its subscriber only when there is some."""

from __future__ import annotations

from collections.abc import Callable

from streamstores.changes import Absorb, Changes, Subscription


class FirstRing(Subscription):
    """A subscription that calls `begin` at its first ring."""

    __slots__ = ("_begin", "has_rung")

    def __init__(
        self, changes: Changes, stream_id: str, absorb: Absorb, begin: Callable[[], None]
    ) -> None:
        super().__init__(changes, stream_id, absorb)
        self.has_rung = False
        self._begin = begin

    def ring(self) -> None:
        super().ring()
        if not self.has_rung:
            self.has_rung = True
            self._begin()
