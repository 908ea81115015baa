"""The requests of the chat handler's wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class WireRequest(NamedTuple):
    """One request; `path` is relative to the endpoint."""

    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: Mapping[str, Any] | None = None


def to_send(fields: Mapping[str, Any], stream_id: str) -> WireRequest:
    """Start a stream, or attach to it if an earlier attempt has started it."""
    return WireRequest("POST", "", body={**fields, "id": stream_id})


def to_follow(stream_id: str, offset: int) -> WireRequest:
    """Read from `offset` on; a stopped stream stays stopped."""
    query = {"id": stream_id, "after": str(offset), "mode": "follow"}
    return WireRequest("GET", "/resume", query=query)


def to_continue(stream_id: str, offset: int) -> WireRequest:
    """Let a stopped stream go on, and read from `offset` on."""
    return WireRequest("POST", "/resume", body={"id": stream_id, "after": offset})


def to_stop(stream_id: str) -> WireRequest:
    return WireRequest("POST", "/stop", body={"id": stream_id})


def to_ask_status(stream_id: str) -> WireRequest:
    return WireRequest("GET", "/status", query={"id": stream_id})
