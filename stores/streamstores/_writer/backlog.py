"""What a writer has accepted and the store has not acknowledged."""

from __future__ import annotations

from collections.abc import Sequence

from streamstores.limits import Limits

__all__ = ["Backlog", "after_bytes"]


class Backlog:
    """The chunks between a producer and its store, in the order in which they were accepted.

    This is the only ledger of what is stored: a chunk waits, is in flight with one append,
    and leaves when the store has acknowledged that append.
    """

    __slots__ = (
        "_in_flight",
        "_in_flight_bytes",
        "_waiting",
        "accepted",
        "stored",
        "waiting_bytes",
    )

    def __init__(self) -> None:
        self.accepted = 0
        """Bytes accepted since the start."""
        self.stored = 0
        """Of these, the bytes that the store has acknowledged."""
        self.waiting_bytes = 0
        """Of these, the bytes that no append has taken yet."""
        self._waiting: list[bytes] = []
        self._in_flight: tuple[bytes, ...] = ()
        self._in_flight_bytes = 0

    def __bool__(self) -> bool:
        """Whether a chunk waits for the next append."""
        return bool(self._waiting)

    @property
    def unstored(self) -> list[bytes]:
        """The chunks that are in flight, then those that wait."""
        return [*self._in_flight, *self._waiting]

    def add(self, chunk: bytes) -> None:
        size = len(chunk)
        self._waiting.append(chunk)
        self.waiting_bytes += size
        self.accepted += size

    def take(self, limits: Limits) -> tuple[bytes, ...]:
        """Put as many chunks in flight as one append may hold; perhaps none."""
        # Without a chunk this is a heartbeat. A refused append stays in flight, for `unstored`.
        waiting = self._waiting
        if self.waiting_bytes <= limits.append_bytes and len(waiting) <= limits.append_records:
            self._in_flight, self._in_flight_bytes = tuple(waiting), self.waiting_bytes
            waiting.clear()
            self.waiting_bytes = 0
        else:
            self._take_some(limits)
        return self._in_flight

    def _take_some(self, limits: Limits) -> None:
        size = count = 0
        for chunk in self._waiting[: limits.append_records]:
            if size + len(chunk) > limits.append_bytes and count:
                break
            size += len(chunk)
            count += 1
        self._in_flight, self._in_flight_bytes = tuple(self._waiting[:count]), size
        del self._waiting[:count]
        self.waiting_bytes -= size

    def acknowledge(self) -> None:
        """Forget what is in flight: the store has it."""
        self.stored += self._in_flight_bytes
        self._in_flight, self._in_flight_bytes = (), 0


def after_bytes(chunks: Sequence[bytes], size: int) -> list[bytes] | None:
    """`chunks` without their first `size` bytes; None if they do not have that many."""
    rest: list[bytes] = []
    for chunk in chunks:
        if size < len(chunk):
            rest.append(chunk[size:])
        size = max(size - len(chunk), 0)
    return None if size else rest
