"""Pointers: small streams that name the one stream that runs for a chat or a thread."""

from __future__ import annotations

import time
from asyncio import sleep

from streamstores.errors import Conflict, StreamExists, StreamNotFound
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["REQUEST", "RUNNING", "Pointers"]

RUNNING = "running"
"""The attribute of a pointer with the id of the stream; empty if none has run yet."""
REQUEST = "request"
"""The attribute with what tells a repeated request from another one."""

_BEGIN_SECONDS = 2.0
"""How long a stream that another request has claimed may take to begin, before that request's
process is taken for dead."""


class Pointers:
    """The pointers of one store. They change by compare-and-set, so of two requests at once
    one wins. A pointer lives `ttl` seconds after its last change."""

    def __init__(self, store: StreamStore, ttl: float | None) -> None:
        self._store = store
        self._ttl = ttl

    async def get(self, pointer_id: str) -> StreamInfo:
        """The pointer, created if there is none."""
        try:
            return await self._store.info(pointer_id)
        except StreamNotFound:
            nothing = {RUNNING: "", REQUEST: ""}
        try:
            return await self._store.create(pointer_id, ttl=self._ttl, attributes=nothing)
        except StreamExists as exc:
            return exc.info

    async def move(self, pointer: StreamInfo, stream_id: str, request: str = "") -> bool:
        """Point to another stream. False if another request was first."""
        claim = {RUNNING: stream_id, REQUEST: request}
        try:
            await self._store.append(pointer.id, version=pointer.version, attributes=claim)
        except (Conflict, StreamNotFound):
            return False
        return True

    async def is_live(self, stream_id: str) -> bool:
        """Whether the stream is being produced, or is about to be."""
        deadline = time.monotonic() + _BEGIN_SECONDS
        while True:
            try:
                return (await self._store.info(stream_id)).state is State.STREAMING
            # The pointer is moved before the stream is created, so there is a moment in which
            # a live stream is not there yet.
            except StreamNotFound:
                if time.monotonic() > deadline:
                    return False
            await sleep(0.05)
