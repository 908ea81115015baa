"""A search for an order of the operations that explains every result.

An operation takes effect at one moment between its call and its return. The checker looks for
an order of these moments, each stream by itself, in which a stream that follows the contract
gives exactly the results that the clients saw. It is the search of Wing and Gong with the
memory of visited states that Lowe added (https://doi.org/10.1002/cpe.3928).

Like the oracle of `model_tests`, it shares no code with the stores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from streamstores.conformance.histories.operations import Operation
from streamstores.errors import (
    Conflict,
    OffsetOutOfRange,
    StreamClosed,
    StreamExists,
    StreamNotFound,
)
from streamstores.store import Page, StreamInfo

__all__ = ["Expected", "effects", "longest_explanation"]

FINAL = ("done", "error")


class Expected(NamedTuple):
    """A stream as it must be after some of the operations."""

    data: bytes = b""
    ends: tuple[int, ...] = ()
    state: str = "streaming"
    attributes: tuple[tuple[str, str], ...] = ()
    version: int = -1
    is_exact: bool = False
    """False after a mutation whose result no client saw; the version is above `version`."""
    created_at: datetime | None = None
    """None until a result shows it. It tells a stream from its namesakes."""


Stream = Expected | None
"""None while there is no stream of the id."""


def longest_explanation(operations: Sequence[Operation]) -> list[Operation]:
    """The longest order of effects that the results allow, all of one stream id.

    The history is linearizable if it holds every operation whose outcome is known.
    """
    required = sum(1 << n for n, each in enumerate(operations) if not each.is_unknown)
    best: tuple[int, ...] = ()
    pending: list[tuple[int, Stream, tuple[int, ...]]] = [(0, None, ())]
    seen: set[tuple[int, Stream]] = {(0, None)}
    while pending:
        taken, stream, order = pending.pop()
        if _count(operations, order) > _count(operations, best):
            best = order
        if taken & required == required:
            return [operations[n] for n in order]
        for number in _next(operations, taken):
            for after in effects(stream, operations[number]):
                state = (taken | 1 << number, after)
                # Two orders that lead to the same stream with the same operations left have the
                # same future, so only the first is followed (Lowe's addition).
                if state not in seen:
                    seen.add(state)
                    pending.append((*state, (*order, number)))
    return [operations[n] for n in best]


def _count(operations: Sequence[Operation], order: tuple[int, ...]) -> int:
    return sum(not operations[number].is_unknown for number in order)


def _next(operations: Sequence[Operation], taken: int) -> list[int]:
    """The operations that may take effect next: none that has returned may be passed over.

    In the order in which the search should try them last to first: those whose outcome is
    unknown only if nothing else explains the results.
    """
    left = [n for n in range(len(operations)) if not taken >> n & 1]
    returns = [ended for n in left if (ended := operations[n].ended) is not None]
    first_return = min(returns, default=0)
    candidates = [n for n in left if operations[n].began < first_return]
    return sorted(
        candidates,
        key=lambda n: (operations[n].is_unknown, operations[n].ended or 0),
        reverse=True,
    )


def effects(stream: Stream, operation: Operation) -> Iterator[Stream]:
    """The streams that may be there after the operation, if it takes effect now.

    None at all if its result is impossible now. An operation whose outcome is unknown is
    considered only if it changes something.
    """
    if operation.name == "create":
        return _creations(stream, operation)
    if operation.name == "append":
        return _appends(stream, operation)
    if operation.name == "delete":
        return _deletions(stream, operation)
    return _reads(stream, operation)


def _creations(stream: Stream, operation: Operation) -> Iterator[Stream]:
    result = operation.result
    if isinstance(result, StreamExists):
        yield from _shown(stream, result.info)
    elif stream is None:
        created = _after_append(Expected(), operation.arguments)
        if operation.is_unknown:
            yield created
        elif isinstance(result, StreamInfo):
            yield from _shown(created, result)


def _deletions(stream: Stream, operation: Operation) -> Iterator[Stream]:
    if isinstance(operation.result, StreamNotFound):
        if stream is None:
            yield None
    elif stream is not None and (operation.is_unknown or operation.result is None):
        yield None


def _appends(stream: Stream, operation: Operation) -> Iterator[Stream]:
    result, arguments = operation.result, operation.arguments
    if isinstance(result, StreamNotFound):
        if stream is None:
            yield None
        return
    info = getattr(result, "info", None) if isinstance(result, Exception) else None
    for known in [stream] if info is None else _shown(stream, info):
        if known is not None:
            for exact, verdict in _verdicts(known, arguments):
                yield from _after_verdict(exact, verdict, operation)


def _after_verdict(stream: Expected, verdict: str, operation: Operation) -> Iterator[Stream]:
    """The stream after an append of this verdict; nothing if the result is another."""
    result = operation.result
    if verdict in ("closed", "conflict"):
        if isinstance(result, StreamClosed if verdict == "closed" else Conflict):
            yield stream
    elif verdict == "nothing":
        if isinstance(result, StreamInfo):
            yield from _shown(stream, result)
    else:
        changed = _after_append(stream, operation.arguments)
        if operation.is_unknown:
            yield changed
        elif isinstance(result, StreamInfo):
            yield from _shown(changed, result)


def _verdicts(stream: Expected, arguments: dict[str, Any]) -> Iterator[tuple[Expected, str]]:
    """What the contract says of an append: "nothing", "closed", "conflict" or "changes".

    With the stream as it is then known; two of them if its version decides and is not known.
    """
    chunks, state = arguments.get("chunks", ()), arguments.get("state")
    attributes, at = arguments.get("attributes"), arguments.get("at")
    version = arguments.get("version")
    is_bare = not chunks and attributes is None
    if stream.state != "streaming" and state == stream.state and is_bare:
        yield stream, "nothing"
    elif not _may_change(stream.state, state, has_chunks=bool(chunks)):
        yield stream, "closed"
    elif at is not None and at != len(stream.data):
        yield stream, "conflict"
    elif version is None or (stream.is_exact and version == stream.version):
        yield stream, "changes"
    elif stream.is_exact or version <= stream.version:
        yield stream, "conflict"
    else:
        yield stream._replace(version=version, is_exact=True), "changes"
        yield stream, "conflict"


def _may_change(old: str, new: str | None, *, has_chunks: bool) -> bool:
    if old == "stopped":
        return new == "streaming" or (new in FINAL and not has_chunks)
    return old == "streaming"


def _after_append(stream: Expected, arguments: dict[str, Any]) -> Expected:
    """The stream after the append, at a version that is not known yet."""
    data, ends = stream.data, list(stream.ends)
    for chunk in arguments.get("chunks", ()):
        data += chunk
        ends.append(len(data))
    attributes = arguments.get("attributes")
    return stream._replace(
        data=data,
        ends=tuple(ends),
        state=arguments.get("state") or stream.state,
        attributes=stream.attributes if attributes is None else _sorted(attributes),
        is_exact=False,
    )


def _reads(stream: Stream, operation: Operation) -> Iterator[Stream]:
    result, offset = operation.result, operation.arguments.get("offset", 0)
    if isinstance(result, StreamNotFound):
        if stream is None:
            yield None
    elif isinstance(result, OffsetOutOfRange):
        if stream is not None and result.tail == len(stream.data) < offset:
            yield stream
    elif isinstance(result, StreamInfo):
        yield from _shown(stream, result)
    elif isinstance(result, Page) and _is_page_of(stream, result, offset):
        yield from _shown(stream, result.info)


def _is_page_of(stream: Stream, page: Page, offset: int) -> bool:
    """Whether the page holds exactly the stream's records from the offset on."""
    if stream is None:
        return False
    position = offset
    for start, data in page.records:
        end = start + len(data)
        if start != position or data != stream.data[start:end] or end not in stream.ends:
            return False
        if any(start < inside < end for inside in stream.ends):
            return False
        position = end
    return position == page.next_offset and (position > offset or position == len(stream.data))


def _shown(stream: Stream, info: StreamInfo) -> Iterator[Expected]:
    """The stream after a result has shown this info, if it can be its info."""
    if stream is None:
        return
    shown = (info.tail, str(info.state), _sorted(info.attributes))
    if shown != (len(stream.data), stream.state, stream.attributes):
        return
    if stream.is_exact and info.version != stream.version:
        return
    if not stream.is_exact and info.version <= stream.version:
        return
    if stream.created_at is None or stream.created_at == info.created_at:
        yield stream._replace(version=info.version, is_exact=True, created_at=info.created_at)


def _sorted(attributes: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(attributes.items()))
