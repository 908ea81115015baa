"""Clause 1: one mutation primitive, wholly or not at all, in one step."""

from __future__ import annotations

import asyncio

from streamstores.conformance.assertions import Call, content, equal, raises, read_all
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import (
    Conflict,
    InvalidRequest,
    StreamClosed,
    StreamExists,
    StreamNotFound,
)
from streamstores.store import Record, State


@check(1)
async def check_append_makes_each_chunk_a_record(harness: Harness) -> None:
    """Each chunk of an append becomes a record, in order."""
    store = await harness.open()
    stream_id = harness.new_id()
    created = await store.create(stream_id)
    equal((created.tail, created.state), (0, State.STREAMING), "a new stream")
    first = await store.append(stream_id, b"one", b"two", b"three")
    equal(first.tail, 11, "tail after the first append")
    second = await store.append(stream_id, b"!")
    equal(second.tail, 12, "tail after the second append")
    records, info = await read_all(store, stream_id)
    expected = [Record(0, b"one"), Record(3, b"two"), Record(6, b"three"), Record(11, b"!")]
    equal(records, expected, "records")
    equal(info, second, "info of the page")
    equal(await store.info(stream_id), second, "info")


@check(1)
async def check_create_sets_everything_in_one_step(harness: Harness) -> None:
    """create sets the first records, the state and the attributes in one step."""
    store = await harness.open()
    stream_id = harness.new_id()
    created = await store.create(
        stream_id, b"whole", b" answer", attributes={"model": "smart"}, state="done"
    )
    page = await store.read(stream_id)
    equal(page.info, created, "info read after create")
    equal(page.records, [Record(0, b"whole"), Record(5, b" answer")], "records")
    equal((created.tail, created.state), (12, State.DONE), "tail and state")
    equal(dict(created.attributes), {"model": "smart"}, "attributes")
    equal(created.error, None, "error")


@check(1)
async def check_create_refuses_a_living_id(harness: Harness) -> None:
    """create of an existing id raises StreamExists with its info and changes nothing."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"mine", ttl=1000, attributes={"a": "1"})
    with raises(StreamExists, "create again") as caught:
        await store.create(stream_id, b"yours", attributes={"b": "2"}, state="done")
    equal(caught.error.info, info, "StreamExists.info")
    equal(await store.info(stream_id), info, "info after the refused create")
    equal(await content(store, stream_id), b"mine", "bytes after the refused create")


@check(1)
async def check_last_word_sets_records_state_and_attributes(harness: Harness) -> None:
    """append(id, last, state="done", attributes=…) is a single mutation: the last word."""
    store = await harness.open()
    stream_id = harness.new_id()
    before = await store.create(stream_id, b"so ", attributes={"old": "1"})
    info = await store.append(
        stream_id,
        b"far",
        b".",
        at=3,
        version=before.version,
        state="done",
        attributes={"n": "2"},
    )
    equal((info.tail, info.state, dict(info.attributes)), (7, State.DONE, {"n": "2"}), "result")
    equal(await store.info(stream_id), info, "info")
    equal(await content(store, stream_id), b"so far.", "bytes")


@check(1)
async def check_last_word_is_never_seen_in_halves(harness: Harness) -> None:
    """No reader sees the last bytes without the final state, or the state without the bytes."""
    store, other = await harness.open(), await harness.open()
    for _ in range(15):
        stream_id = harness.new_id()
        await store.create(stream_id, b"begin")

        async def watch(stream_id: str = stream_id) -> None:
            while True:
                page = await other.read(stream_id)
                whole = page.info.tail == 10
                is_done = page.info.state is State.DONE
                attributes = dict(page.info.attributes)
                equal((is_done, attributes), (whole, {"x": "y"} if whole else {}), "snapshot")
                equal(page.next_offset, page.info.tail, "end of the snapshot")
                if is_done:
                    return
                await asyncio.sleep(0)

        watcher = harness.start(watch())
        await asyncio.sleep(0)
        await store.append(stream_id, b"end", b"ed", state="done", attributes={"x": "y"})
        await watcher


@check(1)
async def check_last_word_is_one_change_to_a_waiter(harness: Harness) -> None:
    """A waiter woken by the last word sees its bytes and its state together."""
    store, other = await harness.open(), await harness.open()
    for waiting_store in (store, other):
        stream_id = harness.new_id()
        created = await store.create(stream_id)
        waiter = harness.start(
            waiting_store.wait(stream_id, version=created.version, timeout=60)
        )
        await asyncio.sleep(0.02)
        await store.append(stream_id, b"bye", state="done")
        info = await waiter
        equal((info.tail, info.state), (3, State.DONE), "what the waiter sees")


@check(1)
async def check_append_of_nothing_is_a_heartbeat(harness: Harness) -> None:
    """An append without arguments grows the version and changes nothing else."""
    store = await harness.open()
    stream_id = harness.new_id()
    before = await store.create(stream_id, b"abc", attributes={"a": "1"})
    after = await store.append(stream_id)
    assert after.version > before.version, f"version {before.version} -> {after.version}"
    expected = before._replace(version=after.version, updated_at=after.updated_at)
    equal(after, expected, "all but the version and updated_at")
    equal(await store.info(stream_id), after, "info")


@check(1)
async def check_version_grows_with_every_mutation(harness: Harness) -> None:
    """The version grows with every append, change of state and change of attributes."""
    store = await harness.open()
    stream_id = harness.new_id()
    infos = [await store.create(stream_id)]
    infos.append(await store.append(stream_id, b"a"))
    infos.append(await store.append(stream_id, attributes={"k": "v"}))
    infos.append(await store.append(stream_id, attributes={"k": "v"}))
    infos.append(await store.append(stream_id, b"b", b"c", attributes={}))
    infos.append(await store.append(stream_id))
    infos.append(await store.append(stream_id, state="streaming"))
    infos.append(await store.append(stream_id, state="stopped"))
    infos.append(await store.append(stream_id, state="streaming"))
    infos.append(await store.mark_done(stream_id))
    versions = [info.version for info in infos]
    equal(versions, sorted(set(versions)), "versions, strictly growing")
    equal((await store.info(stream_id)).version, versions[-1], "version of the info")
    assert all(type(version) is int and version >= 0 for version in versions), versions


@check(1)
async def check_attributes_are_replaced_as_a_whole(harness: Harness) -> None:
    """attributes= replaces the whole mapping; {} empties it; without it nothing changes."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, attributes={"a": "1", "b": "2"})
    info = await store.append(stream_id, b"x")
    equal(dict(info.attributes), {"a": "1", "b": "2"}, "after an append without attributes")
    info = await store.append(stream_id, attributes={"b": "3", "c": "4"})
    equal(dict(info.attributes), {"b": "3", "c": "4"}, "after the replacement")
    equal(dict((await store.info(stream_id)).attributes), {"b": "3", "c": "4"}, "info")
    await store.append(stream_id, attributes={})
    equal(dict((await store.info(stream_id)).attributes), {}, "after emptying")


@check(1)
async def check_attributes_keep_any_text(harness: Harness) -> None:
    """Keys and values of attributes are returned exactly: NUL, emoji, quotes, empty text."""
    store = await harness.open()
    stream_id = harness.new_id()
    texts = ["", "\x00", "a\x00b", "𝄞 é e\u0301", "'\"\\", "{}[]%*", "\r\n\u2028", " x ", "1"]
    attributes = {f"{text}|{number}": text for number, text in enumerate(texts)}
    attributes[""] = "the empty key"
    await store.create(stream_id, attributes=attributes)
    equal(dict((await store.info(stream_id)).attributes), attributes, "after create")
    backwards = {value: key for key, value in attributes.items()}
    await store.append(stream_id, attributes=backwards)
    equal(dict((await store.info(stream_id)).attributes), backwards, "after append")


@check(1)
async def check_attributes_are_not_shared_with_the_caller(harness: Harness) -> None:
    """Changing a dict that was passed in or returned does not change the stream."""
    store = await harness.open()
    stream_id = harness.new_id()
    given = {"a": "1"}
    await store.create(stream_id, attributes=given)
    given["a"] = "changed"
    equal(dict((await store.info(stream_id)).attributes), {"a": "1"}, "after create")
    given = {"b": "2"}
    returned = await store.append(stream_id, attributes=given)
    given["b"] = "changed"
    for mapping in (returned.attributes, (await store.read(stream_id)).info.attributes):
        try:
            mapping["b"] = "changed"  # type: ignore[index]  # what a careless caller does
        except TypeError:
            continue  # a read-only mapping is fine too
    equal(dict((await store.info(stream_id)).attributes), {"b": "2"}, "after append")


@check(1)
async def check_error_text_is_kept(harness: Harness) -> None:
    """error= goes with state="error" and is kept exactly, whatever the text."""
    store = await harness.open()
    for text in ("model fell over", "", "NUL \x00, 𝄞 and '\"\\", None):
        stream_id = harness.new_id()
        await store.create(stream_id, b"half")
        info = await store.append(stream_id, b" more", state="error", error=text)
        equal((info.state, info.error, info.tail), (State.ERROR, text, 9), "result")
        equal(await store.info(stream_id), info, "info")
    stream_id = harness.new_id()
    await store.create(stream_id)
    info = await store.mark_done(stream_id, "error", error="why")
    equal((await store.info(stream_id)).error, "why", "error of mark_done")


@check(1)
async def check_at_must_be_the_tail(harness: Harness) -> None:
    """An append with at= succeeds exactly if it equals the tail, else it gets Conflict."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id)
    await store.append(stream_id, b"abc", at=0)
    info = await store.append(stream_id, b"de", at=3)
    for wrong in (0, 3, 4, 6, 2**31, 2**53, 2**64, 10**30):
        with raises(Conflict, f"append at={wrong}") as caught:
            await store.append(stream_id, b"never", at=wrong)
        equal(caught.error.info, info, f"Conflict.info at={wrong}")
        with raises(Conflict, f"heartbeat at={wrong}"):
            await store.append(stream_id, at=wrong)
    equal(await store.info(stream_id), info, "info after the refusals")
    equal(await content(store, stream_id), b"abcde", "bytes")


@check(1)
async def check_version_must_match(harness: Harness) -> None:
    """An append with version= succeeds exactly if it equals the version, else Conflict."""
    store = await harness.open()
    stream_id = harness.new_id()
    old = await store.create(stream_id)
    info = await store.append(stream_id, b"abc", version=old.version)
    for wrong in (old.version, info.version + 1, 0, 1, 2**63 - 1, 2**63, 10**30):
        with raises(Conflict, f"append version={wrong}") as caught:
            await store.append(stream_id, b"never", version=wrong)
        equal(caught.error.info, info, f"Conflict.info for version={wrong}")
        with raises(Conflict, f"mark_done version={wrong}"):
            await store.mark_done(stream_id, version=wrong)
    equal(await store.info(stream_id), info, "info after the refusals")
    info = await store.append(stream_id, attributes={"a": "b"}, version=info.version)
    info = await store.mark_done(stream_id, "stopped", version=info.version)
    equal(info.state, State.STOPPED, "state")


@check(1)
async def check_at_and_version_must_both_match(harness: Harness) -> None:
    """If at= and version= are both given, both must match."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"abc")
    with raises(Conflict, "right at, wrong version"):
        await store.append(stream_id, b"x", at=3, version=info.version + 1)
    with raises(Conflict, "wrong at, right version"):
        await store.append(stream_id, b"x", at=2, version=info.version)
    info = await store.append(stream_id, b"x", at=3, version=info.version)
    equal(info.tail, 4, "tail")


@check(1)
async def check_repeated_append_does_not_land_twice(harness: Harness) -> None:
    """Repeating an append with at= or version= gets Conflict: no byte is doubled."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id)
    await store.append(stream_id, b"once", at=0)
    with raises(Conflict, "the same append again"):
        await store.append(stream_id, b"once", at=0)
    info = await store.info(stream_id)
    await store.append(stream_id, b"!", version=info.version)
    with raises(Conflict, "the same append again"):
        await store.append(stream_id, b"!", version=info.version)
    equal(await content(store, stream_id), b"once!", "bytes")


@check(1)
async def check_refused_append_changes_nothing(harness: Harness) -> None:
    """A refused append leaves bytes, state, attributes, version and expiry alone."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"abc", ttl=1000, attributes={"a": "1"})
    await asyncio.sleep(0.01)
    with raises(Conflict, "a wrong at"):
        await store.append(stream_id, b"x", at=1, state="done", attributes={"b": "2"})
    with raises(Conflict, "a wrong version"):
        await store.append(stream_id, b"x", version=0, state="error", error="no")
    equal(await store.info(stream_id), info, "info after the conflicts")
    stopped = await store.mark_done(stream_id, "stopped")
    await asyncio.sleep(0.01)
    with raises(StreamClosed, "an append to a stopped stream"):
        await store.append(stream_id, b"x", state="done", attributes={"b": "2"})
    equal(await store.info(stream_id), stopped, "info after the closed append")
    equal(await content(store, stream_id), b"abc", "bytes")


@check(1)
async def check_order_of_refusals(harness: Harness) -> None:
    """The order of refusals: InvalidRequest, StreamNotFound, no-op, StreamClosed, Conflict."""
    store = await harness.open()
    missing = harness.new_id()
    with raises(InvalidRequest, "an empty record for a missing stream"):
        await store.append(missing, b"", at=5)
    with raises(StreamNotFound, "an append to a missing stream"):
        await store.append(missing, b"x", at=5, version=7)
    stream_id = harness.new_id()
    done = await store.create(stream_id, b"abc", state="done")
    equal(await store.append(stream_id, state="done", at=1, version=0), done, "the no-op")
    with raises(StreamClosed, "an append to a done stream, also with a wrong at") as caught:
        await store.append(stream_id, b"x", at=1, version=0)
    equal(caught.error.info, done, "StreamClosed.info")
    with raises(StreamClosed, "a heartbeat of a done stream, also with a wrong version"):
        await store.append(stream_id, version=0)


@check(1)
async def check_missing_stream_is_not_found(harness: Harness) -> None:
    """Every operation on an id that never existed raises StreamNotFound."""
    store = await harness.open()
    stream_id = harness.new_id()
    calls: dict[str, Call] = {
        "append": lambda: store.append(stream_id, b"x"),
        "append with at=0": lambda: store.append(stream_id, b"x", at=0),
        "mark_done": lambda: store.mark_done(stream_id),
        "read": lambda: store.read(stream_id),
        "read from 5": lambda: store.read(stream_id, 5),
        "info": lambda: store.info(stream_id),
        "wait": lambda: store.wait(stream_id, version=1, timeout=60),
        "expire": lambda: store.expire(stream_id, 10),
        "delete": lambda: store.delete(stream_id),
    }
    for name, call in calls.items():
        with raises(StreamNotFound, name):
            await call()


@check(1)
async def check_mutations_refuse_nonsense(harness: Harness) -> None:
    """An argument of a wrong type or value raises InvalidRequest and changes nothing."""
    store = await harness.open()
    stream_id = harness.new_id()
    info = await store.create(stream_id, b"abc")
    nonsense: list[tuple[tuple[object, ...], dict[str, object]]] = [
        ((b"",), {}),
        ((b"x", b""), {}),
        (("text",), {}),
        ((None,), {}),
        ((1,), {}),
        ((b"x",), {"at": -1}),
        ((b"x",), {"at": "3"}),
        ((b"x",), {"at": 3.0}),
        ((b"x",), {"version": -1}),
        ((b"x",), {"version": "1"}),
        ((b"x",), {"state": "finished"}),
        ((b"x",), {"state": "done", "error": "no"}),
        ((b"x",), {"error": "no"}),
        ((b"x",), {"state": "error", "error": 5}),
        ((b"x",), {"state": "error", "error": "\ud800"}),
        ((b"x",), {"attributes": {"a": 1}}),
        ((b"x",), {"attributes": {1: "a"}}),
        ((b"x",), {"attributes": {"a": None}}),
        ((b"x",), {"attributes": [("a", "b")]}),
        ((b"x",), {"attributes": {"a": "\udfff"}}),
    ]
    for chunks, options in nonsense:
        with raises(InvalidRequest, f"append{chunks} {options}"):
            await store.append(stream_id, *chunks, **options)  # type: ignore[arg-type]  # on purpose
    with raises(InvalidRequest, "mark_done to streaming"):
        await store.mark_done(stream_id, "streaming")
    equal(await store.info(stream_id), info, "info after the refusals")
    equal(await content(store, stream_id), b"abc", "bytes")


@check(1)
async def check_append_of_many_chunks(harness: Harness) -> None:
    """An append of 1,000 chunks makes 1,000 records."""
    store = await harness.open()
    stream_id = harness.new_id()
    chunks = [b"%d," % number for number in range(1000)]
    await store.create(stream_id)
    info = await store.append(stream_id, *chunks, at=0)
    equal(info.tail, sum(map(len, chunks)), "tail")
    records, _ = await read_all(store, stream_id)
    equal([record.data for record in records], chunks, "records")


@check(1)
async def check_a_deleted_stream_is_gone(harness: Harness) -> None:
    """After delete every operation raises StreamNotFound, a second delete too."""
    store = await harness.open()
    stream_id = harness.new_id()
    await store.create(stream_id, b"abc", state="done")
    await store.delete(stream_id)
    with raises(StreamNotFound, "read"):
        await store.read(stream_id)
    with raises(StreamNotFound, "info"):
        await store.info(stream_id)
    with raises(StreamNotFound, "append"):
        await store.append(stream_id, state="done")
    with raises(StreamNotFound, "delete"):
        await store.delete(stream_id)


@check(1)
async def check_info_has_the_right_types(harness: Harness) -> None:
    """An info has the types that the contract gives; id and created_at never change."""
    store = await harness.open()
    stream_id = harness.new_id()
    created = await store.create(stream_id, attributes={"a": "b"})
    await asyncio.sleep(0.01)
    changed = await store.append(stream_id, b"x", state="stopped")
    for info in (created, changed, await store.info(stream_id)):
        equal(info.id, stream_id, "id")
        equal(info.created_at, created.created_at, "created_at")
        equal(type(info.state), State, "type of the state")
        equal((type(info.tail), type(info.version)), (int, int), "types of tail and version")
        equal((info.ttl, info.expires_at), (None, None), "expiry of a stream without one")
        assert info.created_at.tzinfo is not None, "created_at has no timezone"
