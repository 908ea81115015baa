"""Random operations against the oracle: a Hypothesis state machine over any store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import datetime, timezone
from typing import Any, TypeVar

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_state_machine

from streamstores.conformance.assertions import PATIENCE, outcome, within
from streamstores.conformance.harness import Harness, Target, close_loop
from streamstores.conformance.oracle import Oracle, OracleStream, Wish
from streamstores.conformance.pytest_items import (
    StoresUnderTest,
    TestFunction,
    for_stores,
    resolve,
)
from streamstores.errors import (
    Conflict,
    OffsetOutOfRange,
    StreamClosed,
    StreamExists,
    StreamNotFound,
)
from streamstores.follow import Follower, follow
from streamstores.store import Record, StreamInfo, StreamStore

__all__ = ["StoreMachine", "model_tests"]

T = TypeVar("T")

PAST = datetime(2001, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
FUTURE = datetime(2150, 6, 7, 8, 9, 10, tzinfo=timezone.utc)

EXPIRIES: dict[str, dict[str, Any]] = {
    "never": {},
    "ttl": {"ttl": 5000},
    "future": {"expires_at": FUTURE},
    "past": {"expires_at": PAST},
}

# Weighted so that most steps meet a living, streaming stream.
store_numbers: st.SearchStrategy[int] = st.integers(0, 1)
names: st.SearchStrategy[str] = st.sampled_from(("a", "a", "a", "A", "a/b"))
texts: st.SearchStrategy[str] = st.sampled_from(("", "x", "x\x00y", "é𝄞", "'\"\\")) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=4
)
attribute_maps: st.SearchStrategy[dict[str, str]] = st.dictionaries(texts, texts, max_size=3)
chunks_of_bytes: st.SearchStrategy[bytes] = st.binary(min_size=1, max_size=9)
chunks_of_note: st.SearchStrategy[bytes] = st.sampled_from((b"\x00", b"\xff\xfe", b"\r\n"))
chunk_lists: st.SearchStrategy[tuple[bytes, ...]] = st.lists(
    chunks_of_bytes | chunks_of_note, max_size=4
).map(tuple)
first_states: st.SearchStrategy[str] = st.sampled_from(("streaming",) * 6 + ("stopped", "done"))
states: st.SearchStrategy[str | None] = st.sampled_from(
    (None,) * 8 + ("streaming", "stopped", "stopped", "done", "error")
)
expiries: st.SearchStrategy[str] = st.sampled_from(
    ("never", "ttl", "ttl", "future") * 2 + ("past",)
)
guesses: st.SearchStrategy[str] = st.sampled_from(
    ("none", "none", "none", "right", "right", "stale", "far")
)
rarely: st.SearchStrategy[bool] = st.integers(0, 3).map(lambda number: number == 0)


def model_tests(
    make_store: StoresUnderTest, *, settings: hypothesis.settings | None = None
) -> TestFunction:
    """A test function that compares a store with an oracle over random operations.

        test_model = model_tests(make_store)

    `make_store` is what `contract_tests` takes. By default 100 examples of up to 40 steps are
    tried, the same at every run; pass Hypothesis's `settings` to change that. Each example
    uses its own event loop and stream ids, and two store objects if the store declares
    `"multi_process"`.
    """
    check = hypothesis.HealthCheck
    chosen = settings or hypothesis.settings(
        max_examples=100,
        stateful_step_count=40,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[check.too_slow, check.filter_too_much, check.data_too_large],
    )

    @for_stores(make_store)
    def test_model(request: pytest.FixtureRequest) -> None:
        target = resolve(make_store, request, None)

        class MachineOfTarget(StoreMachine):
            def __init__(self) -> None:
                super().__init__(target)

        run_state_machine(MachineOfTarget, settings=chosen)

    return test_model


# Functions with names: to print a lambda, older versions of Hypothesis parse every prefix of
# the method below it, which takes minutes.
def _lists_streams(machine: StoreMachine) -> bool:
    return "list" in machine.stores[0].capabilities


def _has_followers(machine: StoreMachine) -> bool:
    return bool(machine.followers)


class StoreMachine(RuleBasedStateMachine):
    """Each rule does an operation on the store and on the oracle, and compares the two."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.oracle: Oracle = Oracle()
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self.harness: Harness = Harness(target)
        self.stores: list[StreamStore] = [self.run(self.harness.open()) for _ in range(2)]
        self.ids: dict[str, str] = {}
        self.followers: list[tuple[Follower, OracleStream]] = []

    def teardown(self) -> None:
        try:
            for stream in self.oracle.streams.values():
                page = self.run(self.stores[0].read(stream.id, max_bytes=2**30))
                stream.compare_page(page, 0, 2**30)
        finally:
            self.run(self.harness.__aexit__())
            close_loop(self.loop)

    def run(self, work: Awaitable[T]) -> T:
        async def run_it() -> T:
            return await work

        return self.loop.run_until_complete(run_it())

    def try_to(self, work: Awaitable[T]) -> T | Exception:
        return self.run(outcome(work))

    def id_of(self, name: str) -> str:
        if name not in self.ids:
            self.ids[name] = self.harness.own(self.harness.prefix + name)
        return self.ids[name]

    @initialize(chunks=chunk_lists, more=chunk_lists, expiry=st.sampled_from(("never", "ttl")))
    def begin(self, chunks: tuple[bytes, ...], more: tuple[bytes, ...], expiry: str) -> None:
        """Create two streams, because Hypothesis may leave out the rule that creates any."""
        self.create(0, "a", chunks + more, {"": "x"}, "streaming", expiry)
        self.create(1, "A", more, None, "streaming", "never")

    @rule(
        store_number=store_numbers,
        name=names,
        chunks=chunk_lists,
        attributes=st.none() | attribute_maps,
        state=first_states,
        expiry=expiries,
    )
    def create(
        self,
        store_number: int,
        name: str,
        chunks: tuple[bytes, ...],
        attributes: dict[str, str] | None,
        state: Any,
        expiry: str,
    ) -> None:
        """Create the stream; if the id is taken, the store must raise `StreamExists`."""
        stream_id = self.id_of(name)
        options = EXPIRIES[expiry]
        existing = self.oracle.streams.get(stream_id)
        result = self.try_to(
            self.stores[store_number].create(
                stream_id, *chunks, attributes=attributes, state=state, **options
            )
        )
        if existing is not None:
            assert isinstance(result, StreamExists), f"create gave {result!r}"
            existing.compare(result.info)
            return
        assert isinstance(result, StreamInfo), f"create gave {result!r}"
        stream = self.oracle.create(stream_id, chunks, state, attributes)
        self._set_expiry(stream, options)
        stream.learn(result, is_new_version=True)
        self.oracle.used(stream_id, result.version)
        if expiry == "past":
            self.oracle.end(stream_id)

    @rule(
        store_number=store_numbers,
        name=names,
        chunks=chunk_lists,
        at=guesses,
        version=guesses,
        state=states,
        error=st.none() | texts,
        attributes=st.none() | attribute_maps,
    )
    def append(
        self,
        store_number: int,
        name: str,
        chunks: tuple[bytes, ...],
        at: str,
        version: str,
        state: Any,
        error: str | None,
        attributes: dict[str, str] | None,
    ) -> None:
        stream_id = self.id_of(name)
        tail, number = self._guess_tail(at, stream_id), self._guess_version(version, stream_id)
        said = error if state == "error" else None
        self._append(
            store_number, stream_id, Wish(chunks, tail, number, state, said, attributes)
        )

    @rule(
        store_number=store_numbers,
        name=names,
        version=guesses,
        state=st.none() | st.just("streaming"),
    )
    def beat_or_reopen(self, store_number: int, name: str, version: str, state: Any) -> None:
        stream_id = self.id_of(name)
        number = self._guess_version(version, stream_id)
        self._append(store_number, stream_id, Wish(version=number, state=state))

    @rule(
        store_number=store_numbers,
        name=names,
        version=guesses,
        state=st.sampled_from(("stopped",) * 6 + ("error", "done")),
        error=st.none() | texts,
    )
    def mark_done(
        self, store_number: int, name: str, version: str, state: Any, error: str | None
    ) -> None:
        stream_id = self.id_of(name)
        wish = Wish(version=self._guess_version(version, stream_id), state=state)
        wish.error = error if state == "error" else None
        marking = self.stores[store_number].mark_done(
            stream_id, state, error=wish.error, version=wish.version
        )
        self._judge(self.oracle.streams.get(stream_id), wish, self.try_to(marking))

    def _append(self, store_number: int, stream_id: str, wish: Wish) -> None:
        state: Any = wish.state
        appending = self.stores[store_number].append(
            stream_id,
            *wish.chunks,
            at=wish.at,
            version=wish.version,
            state=state,
            error=wish.error,
            attributes=wish.attributes,
        )
        self._judge(self.oracle.streams.get(stream_id), wish, self.try_to(appending))

    def _judge(self, stream: OracleStream | None, wish: Wish, result: object) -> None:
        """Compare the result of a mutation with the oracle's verdict, and apply it there."""
        if stream is None:
            assert isinstance(result, StreamNotFound), f"append gave {result!r}"
            return
        verdict = stream.verdict(wish)
        if verdict in ("closed", "conflict"):
            kind = StreamClosed if verdict == "closed" else Conflict
            assert isinstance(result, kind), f"append gave {result!r}, not {kind.__name__}"
            stream.compare(result.info)
            return
        assert isinstance(result, StreamInfo), f"append gave {result!r}"
        if verdict == "changes":
            stream.apply(wish)
            self.oracle.used(stream.id, result.version)
        stream.learn(result, is_new_version=verdict == "changes")

    def _guess_tail(self, guess: str, stream_id: str) -> int | None:
        stream = self.oracle.streams.get(stream_id)
        tail = len(stream.data) if stream else 0
        return {"none": None, "right": tail, "stale": max(tail - 1, 0), "far": 10**20}[guess]

    def _guess_version(self, guess: str, stream_id: str) -> int | None:
        stream = self.oracle.streams.get(stream_id)
        current = stream.version if stream else 5
        old = (self.oracle.old_versions(stream_id) or [current - 1])[-1]
        return {"none": None, "right": current, "stale": old, "far": 10**20}[guess]

    @rule(
        store_number=store_numbers,
        name=names,
        share=st.floats(0, 1),
        beyond=st.sampled_from((0, 0, 0, 1, 2**70)),
        max_bytes=st.sampled_from((1, 2, 5, 20, 2**20)),
    )
    def read(
        self, store_number: int, name: str, share: float, beyond: int, max_bytes: int
    ) -> None:
        """Read from somewhere in the stream, or from beyond its tail."""
        stream_id = self.id_of(name)
        stream = self.oracle.streams.get(stream_id)
        tail = len(stream.data) if stream else 0
        offset = tail + beyond if beyond else round(tail * share)
        result = self.try_to(
            self.stores[store_number].read(stream_id, offset, max_bytes=max_bytes)
        )
        if stream is None:
            assert isinstance(result, StreamNotFound), f"read gave {result!r}"
        elif beyond:
            assert isinstance(result, OffsetOutOfRange), f"read gave {result!r}"
            assert result.tail == tail, f"OffsetOutOfRange.tail is {result.tail}, not {tail}"
        else:
            assert not isinstance(result, Exception), f"read gave {result!r}"
            stream.compare_page(result, offset, max_bytes)

    @rule(store_number=store_numbers, name=names)
    def info(self, store_number: int, name: str) -> None:
        self._compare_or_missing(name, self.stores[store_number].info(self.id_of(name)))

    @rule(store_number=store_numbers, name=names, guess=guesses)
    def wait(self, store_number: int, name: str, guess: str) -> None:
        version = self._guess_version(guess, self.id_of(name)) or 0
        waiting = self.stores[store_number].wait(self.id_of(name), version=version, timeout=0)
        self._compare_or_missing(name, waiting)

    def _compare_or_missing(self, name: str, asking: Awaitable[StreamInfo]) -> None:
        stream = self.oracle.streams.get(self.id_of(name))
        result = self.try_to(asking)
        if stream is None:
            assert isinstance(result, StreamNotFound), f"a missing stream gave {result!r}"
        else:
            assert isinstance(result, StreamInfo), f"a living stream gave {result!r}"
            stream.compare(result)

    @rule(store_number=store_numbers, name=names, expiry=expiries)
    def expire(self, store_number: int, name: str, expiry: str) -> None:
        """Set another expiry; a time in the past ends the stream in the oracle too."""
        stream_id = self.id_of(name)
        stream = self.oracle.streams.get(stream_id)
        result = self.try_to(self.stores[store_number].expire(stream_id, **EXPIRIES[expiry]))
        if stream is None:
            assert isinstance(result, StreamNotFound), f"expire gave {result!r}"
            return
        assert isinstance(result, StreamInfo), f"expire gave {result!r}"
        self._set_expiry(stream, EXPIRIES[expiry])
        if stream.ttl is not None:
            assert result.expires_at is not None, "a ttl without an end"
            stream.expires_at = result.expires_at
        stream.compare(result)
        if expiry == "past":
            self.oracle.end(stream_id)

    def _set_expiry(self, stream: OracleStream, options: dict[str, Any]) -> None:
        ttl = options.get("ttl")
        stream.ttl = None if ttl is None else float(ttl)
        stream.expires_at = options.get("expires_at")

    @rule(store_number=store_numbers, name=names, really=rarely)
    def delete(self, store_number: int, name: str, really: bool) -> None:
        if not really:
            return
        stream_id = self.id_of(name)
        result = self.try_to(self.stores[store_number].delete(stream_id))
        if stream_id in self.oracle.streams:
            assert result is None, f"delete gave {result!r}"
            self.oracle.end(stream_id)
        else:
            assert isinstance(result, StreamNotFound), f"delete gave {result!r}"

    @rule(store_number=store_numbers)
    def sweep(self, store_number: int) -> None:
        assert self.run(self.stores[store_number].sweep()) >= 0

    @precondition(_lists_streams)
    @rule(store_number=store_numbers)
    def list_all(self, store_number: int) -> None:
        async def list_all(store: StreamStore) -> list[StreamInfo]:
            return [info async for info in store.list(self.harness.prefix)]

        infos = self.run(list_all(self.stores[store_number]))
        listed, true = sorted(info.id for info in infos), sorted(self.oracle.streams)
        assert listed == true, f"listed {listed}, true is {true}"
        for info in infos:
            self.oracle.streams[info.id].compare(info)

    @rule(store_number=store_numbers, name=names, share=st.floats(0, 1))
    def follow(self, store_number: int, name: str, share: float) -> None:
        """Begin to follow; the steps come later, interleaved with other operations."""
        stream = self.oracle.streams.get(self.id_of(name))
        if stream is not None and len(self.followers) < 4:
            offset = round(len(stream.data) * share)
            follower = follow(self.stores[store_number], stream.id, offset)
            self.followers.append((follower, stream))
            self._step(len(self.followers) - 1)

    @precondition(_has_followers)
    @rule(number=st.integers(0, 3))
    def step(self, number: int) -> None:
        self._step(number % len(self.followers))

    def _step(self, number: int) -> None:
        """Take one batch of a follower: the next bytes of its stream, or its end."""
        follower, stream = self.followers[number]
        if follower.info is None:
            # It has read nothing yet, so it follows the stream that has the id now.
            stream = self.oracle.streams.get(stream.id, stream)
            self.followers[number] = follower, stream
        is_alive = self.oracle.streams.get(stream.id) is stream
        offset, tail = follower.offset, len(stream.data)
        if is_alive and offset == tail and stream.state == "streaming":
            return  # a correct follower would wait here
        # A follower on a store without notices may sleep for a whole `poll_interval` first.
        patience = PATIENCE.prompt + self.stores[0].limits.poll_interval
        result = self.try_to(within(patience, follower.batch(), "a follower's step"))
        if isinstance(result, StreamNotFound) and not is_alive:
            del self.followers[number]
            return
        # The follower was further in an earlier stream of the id than this stream reaches.
        if isinstance(result, OffsetOutOfRange) and is_alive and offset > tail:
            del self.followers[number]
            return
        assert isinstance(result, list), f"a follower at {offset} of {tail} raised {result!r}"
        self._compare_batch(stream, offset, result)
        if not result:
            # Not the state now: the stream may have been reopened since the follower saw its
            # end.
            assert offset in stream.left_at, (
                f"a follower ended at {offset}, where the stream never stopped"
            )
            del self.followers[number]

    def _compare_batch(self, stream: OracleStream, offset: int, batch: list[Record]) -> None:
        for start, data in batch:
            assert start == offset, f"a followed record begins at {start}, not {offset}"
            offset += len(data)
            assert data == stream.data[start:offset], f"other bytes followed from {start}"
