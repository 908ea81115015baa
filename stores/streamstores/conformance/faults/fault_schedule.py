"""The faults of a network, and the draws that decide which bytes meet which."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

__all__ = ["Draw", "Fault", "FaultSchedule"]

LONGEST_DELAY_SECONDS = 0.05
LONGEST_LATENESS_SECONDS = 1.5
LONGEST_SILENCE_SECONDS = 4.0
SLOW_PIECE_BYTES = (1, 1, 16, 64)
CUT_BYTES = (1, 2, 5, 20, 200)


class Fault(Enum):
    """What can happen to a burst of bytes that a client sends, or to the answer."""

    DELAY = "the request arrives some milliseconds later"
    LOST_REQUEST = "the connection ends before the request arrives"
    CUT_REQUEST = "the connection ends in the middle of the request"
    LATE_REQUEST = "the connection ends, and the request arrives afterwards"
    LOST_ANSWER = "the connection ends before the answer"
    CUT_ANSWER = "the connection ends in the middle of the answer"
    CUT_AFTER_ANSWER = "the connection ends after the answer"
    SLOW_ANSWER = "the answer arrives in small pieces, perhaps byte by byte"
    SILENCE = "no byte passes for seconds, in both directions"


_WEIGHTS = {
    Fault.DELAY: 20,
    Fault.LOST_REQUEST: 10,
    Fault.CUT_REQUEST: 10,
    Fault.LATE_REQUEST: 20,
    Fault.LOST_ANSWER: 20,
    Fault.CUT_ANSWER: 15,
    Fault.CUT_AFTER_ANSWER: 10,
    Fault.SLOW_ANSWER: 10,
    Fault.SILENCE: 1,  # as rare as it is slow
}


@dataclass(frozen=True)
class Draw:
    """A fault with its sizes, all drawn together, so that every draw takes as many numbers."""

    fault: Fault
    seconds: float
    """How long it delays, is late or is silent; 0 for the other faults."""
    cut_after_bytes: int
    piece_bytes: int
    is_reset: bool
    """The connection ends by a reset instead of in order."""


class FaultSchedule:
    """The faults that one connection meets, one question for each burst of its client.

    The same seed, connection and share give the same answers in the same order.
    """

    def __init__(self, seed: int, connection: int, share: float) -> None:
        self._random = random.Random(f"{seed}/{connection}")
        self._share = share

    def next(self) -> Draw | None:
        """What the next burst meets; None for a burst that passes unharmed."""
        is_spoilt = self._random.random() < self._share
        draw = self._draw()
        return draw if is_spoilt else None

    def _draw(self) -> Draw:
        """A fault, with numbers for all its sizes."""
        dice = self._random
        fault = dice.choices([*_WEIGHTS], [*_WEIGHTS.values()])[0]
        longest = {
            Fault.DELAY: LONGEST_DELAY_SECONDS,
            Fault.LATE_REQUEST: LONGEST_LATENESS_SECONDS,
            Fault.SILENCE: LONGEST_SILENCE_SECONDS,
        }
        return Draw(
            fault,
            dice.random() * longest.get(fault, 0.0),
            dice.choice(CUT_BYTES),
            dice.choice(SLOW_PIECE_BYTES),
            dice.random() < 0.5,
        )
