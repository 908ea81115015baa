"""Clause 8, the ids: they are opaque and never escape their namespace; and listing."""

from __future__ import annotations

import asyncio

from streamstores.conformance.assertions import content, equal, raises
from streamstores.conformance.checks.waits import PAST
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import InvalidRequest, StreamNotFound
from streamstores.store import StreamInfo, StreamStore

# A careless store would take some ids of a group for the same id.
# fmt: off
NASTY = (
    *("a", "A", "a/b", "a/", "/a", "a//b", "a/b/", "a/B", "b"),
    *("../a", "./a", "a/../b", "a/./b", "..", ".", "../../../../etc/passwd"),
    *("%2F", "a%2Fb", "%2f", "%", "%%", "a%", "a_", "_", "ab", "a\\b", "\\", "a\\"),
    *("*", "a*", "a?", "?", "[a-z]", "[a]", "{a}", "a{a}", "{", "}", "{}", "a{", "}{"),
    *("'", '"', "''", "a'b", "a;b", "--", "$1", "%s", ":a", "a:b", "a::b", "#", "a#b", "~"),
    *("é", "e\u0301", "É", "ß", "SS", "ss", "\u0131", "i", "İ", "𝄞", "\U0001f469\u200d"),
    *("\u200b", "\u202e", "\ufeff", "\u2028", "\ufffd", "\uffff", "\ue000", "\U0010ffff"),
    *(" ", "a ", " a", "  ", "a  ", "a\u00a0", "a\u2028", "a\u3000"),
    *("0", "00", "1", "1.0", "-1", "null", "None", "true", "meta", "records", "tail", "state"),
    *("a&b=c", "a+b", "a=b", "a@b", "a,b", "a|b", "<a>", "`a`", "a!b", "(a)", "con", "nul.txt"),
)
# fmt: on


async def ids_of(store: StreamStore, prefix: str) -> list[str]:
    return sorted([info.id async for info in store.list(prefix)])


@check(8)
async def check_ids_are_opaque(harness: Harness) -> None:
    """Ids that differ only in slashes, wildcards, case, normal form or blanks are distinct."""
    store, other = await harness.open(), await harness.open()
    ids = [harness.own(harness.prefix + suffix) for suffix in NASTY]
    equal(len(set(ids)), len(ids), "test data")
    for stream_id in ids:
        info = await store.create(stream_id, stream_id.encode(), attributes={"id": stream_id})
        equal(info.id, stream_id, "id of the result")
    for stream_id in ids:
        await other.append(stream_id, b"!")
    for stream_id in ids:
        page = await other.read(stream_id)
        data = b"".join(record.data for record in page.records)
        equal((data, page.info.id), (stream_id.encode() + b"!", stream_id), "bytes and id")
        equal(dict(page.info.attributes), {"id": stream_id}, "attributes")


@check(8)
async def check_deleting_one_id_leaves_the_others(harness: Harness) -> None:
    """Deleting or expiring a stream with an unusual id affects no other stream."""
    store = await harness.open()
    ids = [harness.own(harness.prefix + suffix) for suffix in NASTY]
    for stream_id in ids:
        await store.create(stream_id, stream_id.encode())
    for number, stream_id in enumerate(ids[::2]):
        if number % 2:
            await store.delete(stream_id)
        else:
            await store.expire(stream_id, expires_at=PAST)
    await store.sweep()
    for stream_id in ids[::2]:
        with raises(StreamNotFound, f"info of {stream_id!r}"):
            await store.info(stream_id)
    for stream_id in ids[1::2]:
        equal(await content(store, stream_id), stream_id.encode(), f"bytes of {stream_id!r}")


@check(8)
async def check_waiters_of_one_id_are_not_woken_by_another(harness: Harness) -> None:
    """A change of a stream wakes no waiter of a stream with a similar id."""
    store = await harness.open()
    suffixes = ("a", "A", "a*", "[a]", "{a}", "a ", "a/")
    infos = [await store.create(harness.own(harness.prefix + suffix)) for suffix in suffixes]
    waiters = [
        harness.start(store.wait(info.id, version=info.version, timeout=600)) for info in infos
    ]
    await asyncio.sleep(0.02)
    for info, waiter in zip(infos, waiters, strict=True):
        changed = await store.append(info.id)
        equal(await waiter, changed, f"what the waiter of {info.id!r} sees")
        await asyncio.sleep(0.01)
        done = [other.id for other, each in zip(infos, waiters, strict=True) if each.done()]
        equal(done, [each.id for each in infos[: len(done)]], "ids of the waiters that woke")
        equal(len(done), infos.index(info) + 1, "waiters that woke")


@check(8)
async def check_ids_that_only_exist_as_parts(harness: Harness) -> None:
    """A prefix, a parent or an extension of an existing id is not a stream."""
    store = await harness.open()
    stream_id = harness.new_id("/a/b")
    await store.create(stream_id, b"abc")
    for other in (
        stream_id[:-1],
        stream_id[:-2],
        f"{stream_id}/",
        f"{stream_id}*",
        stream_id[:-1] + "*",
    ):
        with raises(StreamNotFound, f"info of {other!r}"):
            await store.info(other)
        with raises(StreamNotFound, f"delete of {other!r}"):
            await store.delete(other)


@check(8, "list")
async def check_list_by_prefix(harness: Harness) -> None:
    """list yields exactly the streams whose ids start with the prefix, taken literally."""
    store, other = await harness.open(), await harness.open()
    ids = [harness.own(harness.prefix + suffix) for suffix in NASTY]
    for stream_id in ids:
        await store.create(stream_id, stream_id.encode())
    for suffix in ("", *NASTY):
        prefix = harness.prefix + suffix
        expected = sorted(stream_id for stream_id in ids if stream_id.startswith(prefix))
        equal(await ids_of(other, prefix), expected, f"ids listed with {suffix!r}")
    equal(await ids_of(store, harness.prefix + "no such"), [], "ids of an unknown prefix")


@check(8, "list")
async def check_list_of_everything(harness: Harness) -> None:
    """list without a prefix yields every stream once, with its info."""
    store = await harness.open()
    infos: dict[str, StreamInfo] = {}
    for number in range(250):
        stream_id = harness.new_id()
        infos[stream_id] = await store.create(stream_id, b"x" * (number % 5 + 1))
    listed = [info async for info in store.list() if info.id in infos]
    equal(len(listed), len(infos), "streams listed")
    equal({info.id: info for info in listed} == infos, True, "the infos are right")


@check(8, "list")
async def check_list_omits_deleted_and_expired_streams(harness: Harness) -> None:
    """list yields no deleted or expired stream, and of namesakes only the new stream."""
    store = await harness.open()
    deleted, expired, renewed, kept = (harness.new_id() for _ in range(4))
    for stream_id in (deleted, expired, renewed, kept):
        await store.create(stream_id, b"abc")
    await store.delete(deleted)
    await store.expire(expired, expires_at=PAST)
    await store.delete(renewed)
    await store.create(renewed, b"x")
    born_dead = harness.new_id()
    await store.create(born_dead, expires_at=PAST)
    listed = {info.id: info.tail async for info in store.list(harness.prefix)}
    equal(listed, {renewed: 1, kept: 3}, "tails of the streams listed")


@check(8, "list")
async def check_list_while_streams_come_and_go(harness: Harness) -> None:
    """A listing during deletes and creates yields each stream that stays exactly once."""
    store = await harness.open()
    staying = [harness.new_id() for _ in range(30)]
    going = [harness.new_id() for _ in range(30)]
    for stream_id in (*staying, *going):
        await store.create(stream_id)
    seen: list[str] = []
    async for info in store.list(harness.prefix):
        seen.append(info.id)
        if going:
            await store.delete(going.pop())
            await store.create(harness.new_id("-new"))
    equal(len(seen), len(set(seen)), "streams listed once")
    equal(sorted(set(staying) & set(seen)), sorted(staying), "streams that stayed")


@check(8, "list")
async def check_list_refuses_nonsense(harness: Harness) -> None:
    """A prefix that is not text raises InvalidRequest."""
    store = await harness.open()
    for prefix in (None, 5, b"x"):
        with raises(InvalidRequest, f"list of {prefix!r}"):
            await ids_of(store, prefix)  # type: ignore[arg-type]  # on purpose
