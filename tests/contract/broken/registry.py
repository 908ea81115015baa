"""The registry of broken stores: each with the check that must fail on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Broken(NamedTuple):
    make_store: Callable[[], Any]
    caught_by: str
    """The id of a check."""


BROKEN: dict[str, Broken] = {}


def caught_by(check_id: str) -> Callable[[type], type]:
    """Register the class as a broken store that this check must fail on."""

    def register(store: type) -> type:
        BROKEN[store.__name__] = Broken(store, check_id)
        return store

    return register
