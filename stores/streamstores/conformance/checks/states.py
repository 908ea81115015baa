"""Clause 6: states."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from streamstores.conformance.assertions import content, equal, outcome, raises
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import Conflict, InvalidRequest, StreamClosed
from streamstores.store import State, StateLike, StreamInfo

STREAMING, STOPPED, DONE, ERROR = State

# What an append without chunks does, by the state of the stream and the state asked for.
WITHOUT_CHUNK: dict[tuple[State, State | None], str] = {
    **{(STREAMING, to): "changes" for to in (None, STREAMING, STOPPED, DONE, ERROR)},
    (STOPPED, None): "closed",
    (STOPPED, STREAMING): "changes",
    (STOPPED, STOPPED): "nothing",
    (STOPPED, DONE): "changes",
    (STOPPED, ERROR): "changes",
    (DONE, None): "closed",
    (DONE, STREAMING): "closed",
    (DONE, STOPPED): "closed",
    (DONE, DONE): "nothing",
    (DONE, ERROR): "closed",
    (ERROR, None): "closed",
    (ERROR, STREAMING): "closed",
    (ERROR, STOPPED): "closed",
    (ERROR, DONE): "closed",
    (ERROR, ERROR): "nothing",
}
# The same for an append of a chunk.
WITH_CHUNK = {
    key: "changes" if key[0] is STREAMING or key == (STOPPED, STREAMING) else "closed"
    for key in WITHOUT_CHUNK
}


async def try_transition(
    harness: Harness, old: State, new: State | None, expected: str, options: dict[str, Any]
) -> None:
    """Append to a stream in the state `old`, and check the result and what is stored."""
    store = await harness.open()
    stream_id = harness.new_id()
    before = await store.create(stream_id, b"abc", state=old, attributes={"k": "v"})
    chunks: tuple[bytes, ...] = options.pop("chunks", ())
    result = await outcome(store.append(stream_id, *chunks, state=new, **options))
    what = f"{old} -> {new} with {len(chunks)} chunks, {options}"
    after = await store.info(stream_id)
    if expected == "closed":
        equal(type(result), StreamClosed, what)
        assert isinstance(result, StreamClosed)
        equal(result.info, before, f"{what}: StreamClosed.info")
        equal(after, before, f"{what}: info")
    elif expected == "nothing":
        equal(result, before, what)
        equal(after, before, f"{what}: info")
    else:
        assert isinstance(result, StreamInfo), f"{what} gave {result!r}"
        equal(after, result, f"{what}: info")
        equal((after.state, after.tail), (new or old, 3 + len(b"".join(chunks))), what)
        assert after.version > before.version, f"{what}: the version did not grow"


@check(6)
async def check_every_transition_without_chunks(harness: Harness) -> None:
    """Each state allows exactly the changes of state that the contract lists."""
    for (old, new), expected in WITHOUT_CHUNK.items():
        await try_transition(harness, old, new, expected, {})


@check(6)
async def check_every_transition_with_a_chunk(harness: Harness) -> None:
    """Records can be appended only to a streaming stream, or while reopening a stream."""
    for (old, new), expected in WITH_CHUNK.items():
        await try_transition(harness, old, new, expected, {"chunks": (b"x",)})


@check(6)
async def check_attributes_of_a_closed_stream_stay(harness: Harness) -> None:
    """Attributes of a stopped or final stream change only with an allowed change of state."""
    for (old, new), expected in WITHOUT_CHUNK.items():
        wanted = "closed" if expected == "nothing" else expected
        await try_transition(harness, old, new, wanted, {"attributes": {"k": "new"}})


@check(6)
async def check_repeating_a_stop_or_final_state_is_a_no_op(harness: Harness) -> None:
    """Repeating "stopped", "done" or "error" changes nothing, not even the expiry."""
    store = await harness.open()
    ends: tuple[Literal["stopped", "done", "error"], ...] = ("stopped", "done", "error")
    for state in ends:
        stream_id = harness.new_id()
        await store.create(stream_id, b"abc", ttl=1000)
        error = "first" if state == "error" else None
        ended = await store.mark_done(stream_id, state, error=error)
        # So that an expiry that slides would show.
        await asyncio.sleep(0.01)
        equal(await store.mark_done(stream_id, state), ended, f"{state} again")
        equal(await store.append(stream_id, state=state, at=1, version=0), ended, "with at=")
        if state == "error":
            again = await store.mark_done(stream_id, state, error="second")
            equal(again, ended, "error again, with another text")
        equal(await store.info(stream_id), ended, "info")


@check(6)
async def check_mark_done_is_an_append_of_a_state(harness: Harness) -> None:
    """mark_done sets "done" by default, "stopped" and "error" on request, under version=."""
    store = await harness.open()
    stream_id = harness.new_id()
    before = await store.create(stream_id, b"abc")
    with raises(Conflict, "mark_done with a wrong version"):
        await store.mark_done(stream_id, version=before.version + 1)
    stopped = await store.mark_done(stream_id, "stopped", version=before.version)
    equal(stopped.state, STOPPED, "state")
    done = await store.mark_done(stream_id)
    equal(done.state, DONE, "state by default")
    with raises(StreamClosed, "mark_done to another final state"):
        await store.mark_done(stream_id, "error", error="late")
    equal(await store.info(stream_id), done, "info")


@check(6)
async def check_reopening_needs_the_right_version(harness: Harness) -> None:
    """append(id, state="streaming", version=v) lets exactly one caller reopen the stream."""
    stores = [await harness.open(), await harness.open()]
    stream_id = harness.new_id()
    before = await stores[0].create(stream_id, b"one")
    stopped = await stores[0].mark_done(stream_id, "stopped")
    with raises(Conflict, "reopening with an old version") as caught:
        await stores[0].append(stream_id, state="streaming", version=before.version)
    equal(caught.error.info, stopped, "Conflict.info")
    racing = [
        outcome(stores[n % 2].append(stream_id, state="streaming", version=stopped.version))
        for n in range(8)
    ]
    outcomes = await asyncio.gather(*racing)
    won = [each for each in outcomes if isinstance(each, StreamInfo)]
    equal(len(won), 1, f"reopenings that won, of {outcomes}")
    lost = [each for each in outcomes if isinstance(each, Conflict)]
    equal(len(lost), 7, f"reopenings that got Conflict, of {outcomes}")
    await stores[1].append(stream_id, b"two", version=won[0].version)
    equal(await content(stores[0], stream_id), b"onetwo", "bytes")


@check(6)
async def check_a_stopped_stream_stays_stopped(harness: Harness) -> None:
    """No append, heartbeat or change of attributes reopens a stopped stream by accident."""
    store, other = await harness.open(), await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, b"abc")
    stopped = await other.mark_done(stream_id, "stopped")
    attempts: list[dict[str, Any]] = [
        {},
        {"at": 3},
        {"attributes": {}},
        {"version": stopped.version},
    ]
    for options in attempts:
        for chunks in ((), (b"x",)):
            with raises(StreamClosed, f"append of {chunks} with {options}"):
                await store.append(stream_id, *chunks, **options)
    equal(await store.info(stream_id), stopped, "info")


@check(6)
async def check_stop_racing_append(harness: Harness) -> None:
    """When an append races a stop, the later of the two sees the other: no acknowledged byte
    follows a stop."""
    store, other = await harness.open(), await harness.open()
    for number in range(40):
        stream_id = harness.new_id()
        await store.create(stream_id, b"abc")
        append, stop = store.append(stream_id, b"de"), other.mark_done(stream_id, "stopped")
        racing = (outcome(append), outcome(stop))
        # In turns, because the first of two calls has a head start.
        if number % 2:
            stopped, appended = await asyncio.gather(*reversed(racing))
        else:
            appended, stopped = await asyncio.gather(*racing)
        assert isinstance(stopped, StreamInfo), f"the stop gave {stopped!r}"
        equal(await store.info(stream_id), stopped, "info")
        if isinstance(appended, StreamInfo):
            assert appended.version < stopped.version, "an append landed after the stop"
            equal(stopped.tail, 5, "the tail that the stop saw")
        else:
            equal(type(appended), StreamClosed, "the append that lost")
            equal(stopped.tail, 3, "the tail that the stop saw")
        equal(len(await content(other, stream_id)), stopped.tail, "bytes")


@check(6)
async def check_one_of_racing_final_states_wins(harness: Harness) -> None:
    """Of "done" and "error" set in a race one wins; the other callers get StreamClosed."""
    stores = [await harness.open(), await harness.open()]
    for _ in range(10):
        stream_id = harness.new_id()
        await stores[0].create(stream_id, b"abc")
        racing = [
            outcome(stores[n % 2].mark_done(stream_id, state))
            for n, state in enumerate((DONE, ERROR, DONE, ERROR))
        ]
        outcomes = await asyncio.gather(*racing)
        info = await stores[0].info(stream_id)
        for state, each in zip((DONE, ERROR, DONE, ERROR), outcomes, strict=True):
            if state is info.state:
                equal(each, info, "outcome of setting the state that won")
            else:
                equal(type(each), StreamClosed, "outcome of setting the other state")


@check(6)
async def check_states_are_text_or_enum(harness: Harness) -> None:
    """A state may be given as text or as a State; anything else raises InvalidRequest."""
    store = await harness.open()
    for state in State:
        for given in (state, state.value):
            stream_id = harness.new_id()
            info = await store.create(stream_id, state=given)
            equal((info.state, type(info.state)), (state, State), f"state after {given!r}")
    wrong: tuple[Any, ...] = ("", "DONE", "finished", 1, b"done")
    for nonsense in wrong:
        given_state: StateLike = nonsense
        with raises(InvalidRequest, f"create with state {nonsense!r}"):
            await store.create(harness.new_id(), state=given_state)
