"""Clause 5, if the store declares `"changes"`: what its `Changes` tell its followers.

See `streamstores.changes.SharesChanges` for what such a store promises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from streamstores.changes import Changes, Subscription, changes_of
from streamstores.conformance.assertions import (
    PATIENCE,
    content,
    equal,
    outcome,
    raises,
    tile,
    within,
)
from streamstores.conformance.checks.waits import PAST
from streamstores.conformance.harness import Harness
from streamstores.conformance.registry import check
from streamstores.errors import InvalidRequest, StoreUnavailable, StreamStoreError
from streamstores.store import StreamStore
from streamstores.values import Record, StreamInfo

Mutate = Callable[[StreamStore, str], Awaitable[Any]]

MUTATIONS: dict[str, Mutate] = {
    "an append": lambda store, stream_id: store.append(stream_id, b"abc"),
    "three records": lambda store, stream_id: store.append(stream_id, b"d", b"ef", b"ghi"),
    "a heartbeat": lambda store, stream_id: store.append(stream_id),
    "attributes": lambda store, stream_id: store.append(stream_id, attributes={"a": "b"}),
    "a stop": lambda store, stream_id: store.mark_done(stream_id, "stopped"),
    "a reopening": lambda store, stream_id: store.append(stream_id, b"j", state="streaming"),
    "a last word": lambda store, stream_id: store.append(stream_id, b"!", state="done"),
}

ENDS: dict[str, Mutate] = {
    "delete": lambda store, stream_id: store.delete(stream_id),
    "expire": lambda store, stream_id: store.expire(stream_id, expires_at=PAST),
}


def changes_in(store: StreamStore) -> Changes:
    """The `Changes` that the store declares."""
    changes = changes_of(store)
    assert changes is not None, "it declares 'changes', but store.changes is no Changes"
    return changes


class Listener:
    """A subscription that keeps what it is told, as a follower does."""

    def __init__(self, store: StreamStore, info: StreamInfo) -> None:
        self.told: list[tuple[StreamInfo, list[Record]]] = []
        self.subscription: Subscription = changes_in(store).subscribe(info.id, self._absorb)
        self.subscription.info = info

    def _absorb(self, info: StreamInfo, records: Sequence[Record]) -> bool:
        self.told.append((info, list(records)))
        known = self.subscription.info
        if known is None or info.version > known.version:
            self.subscription.info = info
        return True

    async def has_heard(self) -> bool:
        """Whether it was told or noticed of something since it was last asked."""
        rung = await self.subscription.wait(0)
        told, self.told = self.told, []
        return rung or bool(told)


@check(5, "changes")
async def check_changes_are_declared_and_offered(harness: Harness) -> None:
    """A store that declares "changes" has them, and they are the same object each time."""
    store = await harness.open()
    equal(changes_in(store) is changes_in(store), True, "store.changes is store.changes")


@check(5, "changes")
async def check_a_commit_is_told_before_it_returns(harness: Harness) -> None:
    """When a mutation returns, the subscriptions of its own store object know of it."""
    store = await harness.open()
    info = await store.create(harness.new_id())
    listener = Listener(store, info)
    with listener.subscription:
        for name, mutate in MUTATIONS.items():
            await mutate(store, info.id)
            equal(await listener.has_heard(), True, f"the subscription knows of {name}")


@check(5, "changes")
async def check_an_end_is_noticed_before_it_returns(harness: Harness) -> None:
    """When a stream is deleted, ended by expire, or begun anew, its subscriptions notice."""
    store = await harness.open()
    for name, end in ENDS.items():
        info = await store.create(harness.new_id())
        listener = Listener(store, info)
        with listener.subscription:
            await listener.has_heard()
            await end(store, info.id)
            equal(await listener.has_heard(), True, f"the subscription knows of {name}")
            await store.create(info.id, b"anew")
            equal(await listener.has_heard(), True, "the subscription knows of its namesake")


@check(5, "changes")
async def check_what_is_told_is_what_is_stored(harness: Harness) -> None:
    """Every info and record that a subscription is told is what the mutation returned and
    what `read` shows, whichever store object it came from."""
    store, other = await harness.open(), await harness.open()
    info = await store.create(harness.new_id(), b"first")
    returned = {info.version: info}
    listener = Listener(store, info)
    with listener.subscription:
        for number, (name, mutate) in enumerate(MUTATIONS.items()):
            changed: StreamInfo = await mutate((store, other)[number % 2], info.id)
            returned[changed.version] = changed
            equal(await store.info(info.id), changed, f"info after {name}")
        if store is not other:
            await asyncio.sleep(0.1)  # what is told late has to be true as well
    whole = await content(store, info.id)
    for told, records in listener.told:
        equal(told, returned.get(told.version), "an info that was told")
        if records:
            start = records[0].offset
            equal(tile(records, start, "records that were told"), told.tail, "their end")
            data = b"".join(record.data for record in records)
            equal(data, whole[start : told.tail], "the bytes that were told")


@check(5, "changes")
async def check_a_refused_mutation_is_not_told(harness: Harness) -> None:
    """A mutation that was refused tells the subscriptions of no change."""
    store = await harness.open()
    info = await store.create(harness.new_id(), b"abc")
    listener = Listener(store, info)
    refused: dict[str, Mutate] = {
        "at": lambda store, stream_id: store.append(stream_id, b"x", at=1),
        "version": lambda store, stream_id: store.append(stream_id, b"x", version=0),
        "an empty chunk": lambda store, stream_id: store.append(stream_id, b""),
        "an existing id": lambda store, stream_id: store.create(stream_id, b"x"),
    }
    with listener.subscription:
        for name, mutate in refused.items():
            with raises(StreamStoreError, name):
                await mutate(store, info.id)
        stopped = await store.mark_done(info.id, "stopped")
        with raises(StreamStoreError, "an append to a stopped stream"):
            await store.append(info.id, b"x")
        equal(await store.mark_done(info.id, "stopped"), stopped, "a repeated stop")
    for told, records in listener.told:
        equal(told, stopped, "the info that was told besides the stop")
        equal(len(records), 0, "the records that were told besides the stop")


@check(5, "changes")
async def check_of_racing_commits_only_the_winner_is_told(harness: Harness) -> None:
    """Of appends that race for the same version, only the winner is told."""
    store = await harness.open()
    info = await store.create(harness.new_id())
    listener = Listener(store, info)
    with listener.subscription:
        racing = [
            outcome(store.append(info.id, b"%d" % number, version=info.version))
            for number in range(8)
        ]
        results = await asyncio.gather(*racing)
    won = [result for result in results if isinstance(result, StreamInfo)]
    equal(len(won), 1, "how many appends won")
    for told, _ in listener.told:
        equal(told, won[0], "an info that was told")


@check(5, "changes")
async def check_closing_the_store_closes_its_changes(harness: Harness) -> None:
    """When the store is closed, its subscriptions get StoreUnavailable, now and later."""
    store = await harness.open_new()
    info = await store.create(harness.new_id())
    changes = changes_in(store)
    with changes.subscribe(info.id) as subscription:
        await subscription.wait(0)
        waiting = harness.start(outcome(subscription.wait(600)))
        await asyncio.sleep(0)
        await store.aclose()
        result = await within(PATIENCE.prompt, waiting, "the subscription's wait")
        equal(type(result), StoreUnavailable, "outcome of the wait")
    with changes.subscribe(info.id) as late, raises(StoreUnavailable, "a later wait"):
        await late.wait(600)
    with raises(InvalidRequest, "a call to the closed store"):
        await store.info(info.id)
