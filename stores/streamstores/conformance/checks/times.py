"""Clause 1: `created_at` and `updated_at`, on the backend's clock."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from streamstores.conformance.assertions import equal, raises
from streamstores.conformance.checks.changes import MUTATIONS
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import Conflict

SLACK = timedelta(seconds=2)
"""How far the clocks of two store objects on one backend may be apart, and a bit more."""


@check(1)
async def check_every_mutation_sets_updated_at(harness: Harness) -> None:
    """updated_at is the time of the last mutation, whichever kind it was and whichever store
    object made it."""
    store, other = await harness.open(), await harness.open()
    begin = time.monotonic()
    created = info = await store.create(harness.new_id(), b"abc")
    equal(created.updated_at, created.created_at, "updated_at of a new stream")
    for number, (name, mutate) in enumerate(MUTATIONS.items()):
        await asyncio.sleep(0.01)  # so that the backend's clock has moved
        before, info = info, await mutate((store, other)[number % 2], created.id)
        equal(info.updated_at != before.updated_at, True, f"{name} sets updated_at")
        equal(await store.info(created.id), info, f"info after {name}")
        equal(info.created_at, created.created_at, f"created_at after {name}")
    passed = timedelta(seconds=time.monotonic() - begin)
    age = info.updated_at - created.created_at
    equal(-SLACK <= age <= passed + SLACK, True, f"updated_at is {age} after created_at")


@check(1)
async def check_only_mutations_set_updated_at(harness: Harness) -> None:
    """Reading, expire, a refused append and a repeated stop leave updated_at as it is."""
    store = await harness.open()
    created = await store.create(harness.new_id(), b"abc")
    await asyncio.sleep(0.01)
    await store.read(created.id)
    await store.wait(created.id, version=0, timeout=0)
    equal((await store.expire(created.id, 600)).updated_at, created.updated_at, "after expire")
    with raises(Conflict, "an append at another tail"):
        await store.append(created.id, b"x", at=1)
    equal((await store.info(created.id)).updated_at, created.updated_at, "after all of these")
    stopped = await store.mark_done(created.id, "stopped")
    await asyncio.sleep(0.01)
    equal(await store.mark_done(created.id, "stopped"), stopped, "a repeated stop")


@check(1, "list")
async def check_list_tells_which_streams_are_stuck(harness: Harness) -> None:
    """list shows the same updated_at as info, so streams that nothing happens to are found."""
    store = await harness.open()
    stuck = await store.create(harness.new_id(), b"abc")
    busy = await store.create(harness.new_id(), b"abc")
    await asyncio.sleep(0.01)
    busy = await store.append(busy.id)
    listed = {info.id: info async for info in store.list(harness.prefix)}
    equal((listed[stuck.id], listed[busy.id]), (stuck, busy), "what list shows")
    oldest = min(listed.values(), key=lambda info: info.updated_at)
    equal(oldest.id, stuck.id, "the stream that was not touched for longest")


@check(1)
async def check_times_are_in_utc(harness: Harness) -> None:
    """created_at, updated_at and expires_at are in UTC."""
    store = await harness.open()
    info = await store.create(harness.new_id(), ttl=600)
    assert info.expires_at is not None, "it has no expires_at"
    for moment in (info.created_at, info.updated_at, info.expires_at):
        equal(moment.utcoffset(), timedelta(0), "the offset from UTC")
