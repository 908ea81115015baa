"""What the clients of a history did: calls, results, and the order of both."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from streamstores.conformance.second_process import SecondProcessEnded
from streamstores.errors import OutcomeUnknown, StoreUnavailable, StreamStoreError

__all__ = ["MUTATIONS", "History", "Operation"]

MUTATIONS = frozenset({"create", "append", "delete"})

_IN_DOUBT = (SecondProcessEnded, OutcomeUnknown, StoreUnavailable)


@dataclass
class Operation:
    """A call and what came of it.

    `began` and `ended` are points in the order of all calls and returns of the history. An
    operation took effect at one moment between the two, if it did.
    """

    client: str
    name: str
    """The method of the store."""
    stream_id: str
    arguments: dict[str, Any]
    began: int
    ended: int | None = None
    """None if the client never learned the outcome: it may take effect until the end."""
    result: Any = None
    """What the call returned or raised."""

    @property
    def is_unknown(self) -> bool:
        return self.ended is None

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        span = f"{self.began:>4} to {'…' if self.ended is None else self.ended:>4}"
        return f"{span}  {self.client}: {self.name}({shown}) -> {_brief(self.result)}"


@dataclass
class History:
    """The operations of one run, in the order in which they began."""

    seed: int
    operations: list[Operation] = field(default_factory=list[Operation])
    faults: list[str] = field(default_factory=list[str])
    """Outcomes that no history allows, such as a read that raises `OutcomeUnknown`."""
    _clock: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    async def record(
        self,
        client: str,
        name: str,
        stream_id: str,
        arguments: dict[str, Any],
        call: Callable[[], Awaitable[Any]],
    ) -> Any:
        """Make the call and record it; returns its result or the exception that it raised.

        A mutation that is cancelled, that raises `OutcomeUnknown` or whose process is killed
        may have been applied. `StoreUnavailable` was not, so that operation is left out.
        """
        # A counter and not a clock: two events at the same time would leave their order open,
        # and a clock that is set would turn it round.
        operation = Operation(client, name, stream_id, arguments, next(self._clock))
        self.operations.append(operation)
        try:
            operation.result = await call()
        except (asyncio.CancelledError, *_IN_DOUBT) as exc:
            operation.result = exc
            self._forget(operation)
            if isinstance(exc, asyncio.CancelledError):
                raise
            return exc
        except Exception as exc:
            operation.result = exc
            if not isinstance(exc, StreamStoreError):
                self.faults.append(f"an exception that is none of a store's: {operation}")
        operation.ended = next(self._clock)
        return operation.result

    def _forget(self, operation: Operation) -> None:
        """Drop an operation that did nothing; keep a mutation that may have been applied."""
        is_mutation = operation.name in MUTATIONS
        if isinstance(operation.result, OutcomeUnknown) and not is_mutation:
            self.faults.append(f"only a mutation may raise OutcomeUnknown: {operation}")
        # The contract lets a client rely on it, so the checker must: a store that applies such
        # a mutation after all has a history without an explanation.
        if isinstance(operation.result, StoreUnavailable) or not is_mutation:
            self.operations.remove(operation)


def _brief(result: Any) -> str:
    """The parts of a result that the checker compares."""
    if isinstance(result, BaseException):
        info = getattr(result, "info", None)
        return type(result).__name__ + (f" of {_brief(info)}" if info is not None else "")
    if hasattr(result, "records"):
        data = b"".join(record.data for record in result.records)
        return f"{data!r}, {_brief(result.info)}"
    if hasattr(result, "version"):
        return f"{result.state} tail={result.tail} version={result.version}"
    return repr(result)
