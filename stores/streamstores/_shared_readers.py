"""Where the shared readers of a store are found."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from streamstores.changes import changes_of
from streamstores.store import StreamStore


class CountedReader(Protocol):
    """A `SharedReader`, which tells how many followers it has."""

    def followers(self) -> list[tuple[StreamStore, int]]: ...


readers_by_store: dict[int, tuple[weakref.ref[StreamStore], dict[str, Any]]] = {}
"""For stores that share no `Changes`, by identity: a store need not be hashable."""


def readers_of(store: StreamStore) -> dict[str, Any]:
    """The shared readers of the store's streams, by stream id."""
    changes = changes_of(store)
    if changes is not None:
        return changes.readers
    key = id(store)
    known = readers_by_store.get(key)
    if known is not None and known[0]() is store:
        return known[1]
    try:
        ref = weakref.ref(store, lambda ref: _forget(key, ref))
    except TypeError:  # it has __slots__ without __weakref__: each follower reads for itself
        return {}
    readers: dict[str, Any] = {}
    readers_by_store[key] = (ref, readers)
    return readers


def _forget(key: int, ref: weakref.ref[StreamStore]) -> None:
    known = readers_by_store.get(key)
    if known is not None and known[0] is ref:  # else another store has this identity by now
        del readers_by_store[key]


live_readers: set[weakref.ref[CountedReader]] = set()


def followers_here() -> Iterator[tuple[StreamStore, int]]:
    """How many followers are at work in this process, with their stores; a store may come
    several times. Safe in any thread."""
    # Copied by `list` in one step, because event loops may change it meanwhile.
    for ref in list(live_readers):
        reader = ref()
        if reader is not None:
            yield from reader.followers()
