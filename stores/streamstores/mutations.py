"""The rules of mutations: what a request may do to a stream, as pure functions.

A backend either applies them under its own lock (memory, SQLite, S3), or states the same
conditions in its own language (SQL, Lua) and calls `refuse` afterwards to raise the error
that tells why its statement matched nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from itertools import accumulate, repeat
from typing import Any, NamedTuple, cast

from streamstores import limits as bounds
from streamstores.errors import Conflict, InvalidRequest, StreamClosed
from streamstores.limits import Limits
from streamstores.values import Record, State, StateLike, StreamInfo

__all__ = [
    "Creation",
    "Mutation",
    "changes_nothing",
    "check_creation",
    "check_end_state",
    "check_mutation",
    "check_state",
    "grown",
    "has_expired",
    "mutated",
    "records_at",
    "records_of",
    "refuse",
    "with_expiry",
]

# Makes a named tuple in half the time of calling its class.
_new: Any = cast("Any", tuple).__new__


class Creation(NamedTuple):
    """A checked request to `create`."""

    stream_id: str
    chunks: tuple[bytes, ...]
    ttl: float | None
    expires_at: datetime | None
    attributes: Mapping[str, str]
    state: State

    @property
    def size(self) -> int:
        return sum(map(len, self.chunks))

    def begun(self, now: datetime) -> StreamInfo:
        """The info of the new stream, at `now` on the backend's clock, with a version that
        none of its namesakes had."""
        return StreamInfo(
            self.stream_id,
            self.state,
            self.size,
            bounds.first_version(),
            None,
            self.attributes,
            now,
            now,
            self.ttl,
            self.expires_at if self.ttl is None else now + timedelta(seconds=self.ttl),
        )


class Mutation(NamedTuple):
    """A checked request to `append`."""

    chunks: tuple[bytes, ...]
    at: int | None
    version: int | None
    state: State | None
    error: str | None
    attributes: Mapping[str, str] | None
    """None: they stay."""

    @property
    def size(self) -> int:
        return sum(map(len, self.chunks))


def check_creation(
    limits: Limits,
    stream_id: str,
    chunks: tuple[bytes, ...],
    ttl: float | None,
    expires_at: datetime | None,
    attributes: Mapping[str, str] | None,
    state: StateLike,
) -> Creation:
    """The request in its checked form; raises `InvalidRequest`."""
    bounds.check_stream_id(stream_id, limits)
    return Creation(
        stream_id,
        bounds.check_chunks(chunks, limits),
        bounds.check_expiry(ttl, expires_at),
        bounds.in_utc(expires_at),
        bounds.check_attributes(attributes, limits),
        check_state(state),
    )


def check_mutation(
    limits: Limits,
    chunks: tuple[bytes, ...],
    at: int | None,
    version: int | None,
    state: StateLike | None,
    error: str | None,
    attributes: Mapping[str, str] | None,
) -> Mutation:
    """The request in its checked form; raises `InvalidRequest`."""
    # None means "as it is" here, and so cannot be a state of its own.
    new_state = None if state is None else check_state(state)
    if error is not None:
        if new_state is not State.ERROR:
            raise InvalidRequest("error goes with state='error'")
        bounds.check_error(error, limits)
    return Mutation(
        bounds.check_chunks(chunks, limits),
        None if at is None else bounds.check_offset(at, "at"),
        None if version is None else bounds.check_version(version),
        new_state,
        error,
        None if attributes is None else bounds.check_attributes(attributes, limits),
    )


def check_state(state: StateLike) -> State:
    try:
        return State(state)
    except ValueError as exc:
        raise InvalidRequest(f"a state is one of {', '.join(State)}, not {state!r}") from exc


def check_end_state(state: StateLike) -> State:
    """What `mark_done` accepts: every state but streaming."""
    end_state = check_state(state)
    if end_state is State.STREAMING:
        raise InvalidRequest("mark_done takes 'stopped', 'done' or 'error'")
    return end_state


def changes_nothing(info: StreamInfo, mutation: Mutation) -> bool:
    """Whether the mutation only repeats a stop or a final state; it then succeeds without a
    new version, whatever its `at` and `version` say."""
    return (
        info.state is mutation.state
        and info.state is not State.STREAMING
        and not mutation.chunks
        and mutation.attributes is None
    )


def refuse(info: StreamInfo, mutation: Mutation) -> None:
    """Raise `StreamClosed` or `Conflict` if the mutation is not allowed on this stream.

    A mutation that `changes_nothing` has to be answered before.
    """
    # The state first: a writer that was stopped should learn that, not that it lost a race.
    if info.state is not State.STREAMING and not _state_allows(info.state, mutation):
        raise StreamClosed(f"stream {info.id!r} is {info.state}", info)
    if mutation.at is not None and mutation.at != info.tail:
        raise Conflict(f"stream {info.id!r} ends at {info.tail}, not {mutation.at}", info)
    if mutation.version is not None and mutation.version != info.version:
        raise Conflict(
            f"stream {info.id!r} is at version {info.version}, not {mutation.version}", info
        )


def _state_allows(state: State, mutation: Mutation) -> bool:
    """Whether a stream that is not streaming takes the mutation."""
    if state is State.STOPPED:
        if mutation.state is State.STREAMING:
            return True
        return mutation.state in (State.DONE, State.ERROR) and not mutation.chunks
    return False


def mutated(info: StreamInfo, mutation: Mutation, now: datetime) -> StreamInfo:
    """The info after a mutation that is allowed, at `now` on the backend's clock."""
    # The same function as the memory store's short way uses, so the two cannot differ.
    info = grown(info, mutation.size, now)
    if mutation.state is None and mutation.attributes is None:
        return info  # an error comes with a state
    return info._replace(
        state=info.state if mutation.state is None else mutation.state,
        error=info.error if mutation.error is None else mutation.error,
        attributes=info.attributes if mutation.attributes is None else mutation.attributes,
    )


def grown(info: StreamInfo, size: int, now: datetime) -> StreamInfo:
    """The info after an append of `size` bytes that changes nothing else."""
    stream_id, state, tail, version, error, attributes, created_at, _, ttl, expires_at = info
    if ttl is not None:
        expires_at = now + timedelta(seconds=ttl)
    tail, version = tail + size, version + 1
    after: StreamInfo = _new(
        StreamInfo,
        (stream_id, state, tail, version, error, attributes, created_at, now, ttl, expires_at),
    )
    return after


def with_expiry(
    info: StreamInfo, ttl: float | None, expires_at: datetime | None, now: datetime
) -> StreamInfo:
    """The info after an `expire` with these arguments, at `now` on the backend's clock."""
    if ttl is not None:
        expires_at = now + timedelta(seconds=ttl)
    return info._replace(ttl=ttl, expires_at=expires_at)


def has_expired(info: StreamInfo, now: datetime) -> bool:
    return info.expires_at is not None and info.expires_at <= now


def records_of(chunks: tuple[bytes, ...], tail: int) -> list[Record]:
    """The records that `chunks` become; `tail` is the end after the last of them."""
    # From the end, because a result tells the new tail and not the old one.
    start = tail - sum(map(len, chunks))
    if len(chunks) == 1:  # by far the commonest, and three times as fast this way
        return [_new(Record, (start, chunks[0]))]
    return records_at(accumulate(map(len, chunks[:-1]), initial=start), chunks)


def records_at(offsets: Iterable[int], chunks: Iterable[bytes]) -> list[Record]:
    """A record of each chunk at its offset, in half the time that calling `Record` takes."""
    return list(map(_new, repeat(Record), zip(offsets, chunks, strict=False)))
