"""What a stream keeps of the request that began it.

Every stream keeps a digest of its request, by which a repeated request is told from another
that uses the same id. If the model can continue an answer, the request itself is saved too. A
short request is an attribute of the stream. A longer request, such as a whole conversation, is
a stream of its own under a random id, and lives as long as the answer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from streamstores import logs
from streamstores.errors import LimitExceeded, StreamNotFound, StreamStoreError
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.reserved import (
    MODEL_ATTRIBUTE,
    SAVED_REQUEST_ATTRIBUTE,
    SAVED_REQUEST_PREFIX,
)
from streamstores.http.chat.models import Model, StreamRequest, records_from
from streamstores.http.chat.records import text_of
from streamstores.http.resumable.served_streams import touch
from streamstores.store import Record, State, StreamInfo, StreamStore

__all__ = [
    "check_same_request",
    "continued",
    "digest_attribute",
    "forget_request",
    "has_request",
    "keep_request",
    "touch_both",
]

_DIGEST = "request_digest"
_INLINE = "request"
_ELSEWHERE = SAVED_REQUEST_ATTRIBUTE
_INLINE_BYTES = 8_192
_COMPARED = ("prompt", "system", "model", "sessionId", "messages")

_log = logging.getLogger("streamstores.http")


def digest_attribute(fields: Mapping[str, Any], stream_id: str) -> dict[str, str]:
    """The attribute by which `check_same_request` recognises a repeated request.

    It covers the fields as the client sent them, not the model that a missing `model` stands
    for: a repetition must be recognised after the handler's default has changed. The stream's
    id is part of the digest, so that equal requests do not look equal in the store.
    """
    asked = {name: fields[name] for name in _COMPARED if fields.get(name) not in (None, [])}
    # Sorted, because a client may send the fields of a repeated request in another order.
    text = json.dumps([stream_id, asked], sort_keys=True)
    digest = hashlib.sha256(text.encode()).digest()[:18]
    return {_DIGEST: base64.urlsafe_b64encode(digest).decode()}


def check_same_request(info: StreamInfo, attributes: Mapping[str, str]) -> None:
    """Raise `HttpError` 409 if the stream `info` was begun by another request than the one that
    `attributes` describe. Streams of other writers have no digest, and match any request."""
    digest = info.attributes.get(_DIGEST)
    if digest is not None and digest != attributes[_DIGEST]:
        raise HttpError(409, "id_conflict", "the id belongs to the answer to another request")


async def keep_request(
    store: StreamStore, request: StreamRequest, ttl: float | None
) -> dict[str, str]:
    """Save `request`. Returns the attributes by which `continued` finds it.

    They are empty if the request is longer than the store's `append_bytes`: then the answer
    cannot be continued. A long request costs one `create`.
    """
    # In ASCII, so that the length is the size in bytes, and half a surrogate pair survives.
    text = json.dumps(
        {
            "prompt": request.prompt,
            "system": request.system,
            "session_id": request.session_id,
            "messages": request.messages,
        }
    )
    # Half of the room is left to the attributes that others add.
    if len(text) <= min(_INLINE_BYTES, store.limits.attributes_bytes // 2):
        return {_INLINE: text}
    companion_id = SAVED_REQUEST_PREFIX + secrets.token_urlsafe(24)
    size = store.limits.record_bytes
    data = text.encode()
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    try:
        # In one step, so that no other process can find half a request.
        await store.create(companion_id, *chunks, ttl=ttl, state=State.DONE)
    except LimitExceeded as exc:
        _log.warning(
            "a request is too long to save, so its answer cannot continue: %s",
            exc,
            extra=logs.event("chat.request_not_saved"),
        )
        return {}
    return {_ELSEWHERE: companion_id}


async def forget_request(store: StreamStore, attributes: dict[str, str]) -> None:
    """Undo `keep_request`. If the deletion fails, the saved request expires by itself."""
    if _ELSEWHERE in attributes:
        with suppress(StreamStoreError):
            await store.delete(attributes[_ELSEWHERE])


def has_request(info: StreamInfo) -> bool:
    return _INLINE in info.attributes or _ELSEWHERE in info.attributes


async def touch_both(store: StreamStore, info: StreamInfo) -> None:
    """Restart the ttl of the stream and of its saved request. A stream without a ttl keeps its
    expiry."""
    await touch(store, info)
    if info.ttl is not None and _ELSEWHERE in info.attributes:
        with suppress(StreamNotFound):  # the answer is useful without its request
            await store.expire(info.attributes[_ELSEWHERE], info.ttl)


async def continued(
    store: StreamStore, info: StreamInfo, model: Model
) -> AsyncGenerator[bytes, None]:
    """The records with which `model` continues the stream `info`."""
    fields = await _load_request(store, info)
    partial = text_of(await _read_all(store, info.id, info.tail))
    request = StreamRequest(
        prompt=fields["prompt"],
        system=fields["system"],
        model=info.attributes[MODEL_ATTRIBUTE],
        session_id=fields["session_id"],
        messages=tuple(fields["messages"]),
        id=info.id,
        partial=partial,
    )
    records = records_from(model, request, store.limits.record_bytes)
    try:
        async for record in records:
            yield record
    finally:
        await records.aclose()


async def _load_request(store: StreamStore, info: StreamInfo) -> dict[str, Any]:
    text: str | bytes | None = info.attributes.get(_INLINE)
    if text is None:
        companion_id = info.attributes[_ELSEWHERE]
        end = (await store.info(companion_id)).tail
        records = await _read_all(store, companion_id, end)
        text = b"".join(data for _, data in records)
    fields: dict[str, Any] = json.loads(text)
    return fields


async def _read_all(store: StreamStore, stream_id: str, end: int) -> list[Record]:
    records: list[Record] = []
    offset = 0
    while offset < end:
        page = await store.read(stream_id, offset)
        records += page.records
        offset = page.next_offset
    return records
