"""The requests that began streams, saved for models that continue an answer.

A short request is an attribute of the stream. A longer request, such as a whole conversation,
is a stream of its own under a random id, and lives as long as the answer.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from streamstores.errors import LimitExceeded, StreamNotFound, StreamStoreError
from streamstores.http._asgi.reserved import MODEL_ATTRIBUTE, SAVED_REQUEST_PREFIX
from streamstores.http.chat.models import Model, StreamRequest, records_from
from streamstores.http.chat.records import text_of
from streamstores.store import Record, State, StreamInfo, StreamStore

__all__ = [
    "continued",
    "forget_request",
    "has_request",
    "keep_request",
    "touch",
]

_INLINE = "request"
_ELSEWHERE = "request_stream"
_INLINE_BYTES = 8_192

_log = logging.getLogger("streamstores.http")


async def keep_request(
    store: StreamStore, request: StreamRequest, ttl: float | None
) -> dict[str, str]:
    """Save `request`. Returns the attributes by which `continued` finds it.

    They are empty if the request is longer than the store's `append_bytes`: then the answer
    cannot be continued. A long request costs one `create`.
    """
    text = json.dumps(
        {
            "prompt": request.prompt,
            "system": request.system,
            "session_id": request.session_id,
            "messages": request.messages,
        }
    )
    if len(text) <= min(_INLINE_BYTES, store.limits.attributes_bytes // 2):
        return {_INLINE: text}
    companion_id = SAVED_REQUEST_PREFIX + secrets.token_urlsafe(24)
    size = store.limits.record_bytes
    data = text.encode()
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    try:
        await store.create(companion_id, *chunks, ttl=ttl, state=State.DONE)
    except LimitExceeded as exc:
        _log.warning("a request is too long to save, so its answer cannot continue: %s", exc)
        return {}
    return {_ELSEWHERE: companion_id}


async def forget_request(store: StreamStore, attributes: dict[str, str]) -> None:
    """Undo `keep_request`. If the deletion fails, the saved request expires by itself."""
    if _ELSEWHERE in attributes:
        with suppress(StreamStoreError):
            await store.delete(attributes[_ELSEWHERE])


def has_request(info: StreamInfo) -> bool:
    return _INLINE in info.attributes or _ELSEWHERE in info.attributes


async def touch(store: StreamStore, info: StreamInfo) -> None:
    """Restart the ttl of the stream and of its saved request. A stream without a ttl keeps its
    expiry."""
    if info.ttl is None:
        return
    await store.expire(info.id, info.ttl)
    if _ELSEWHERE in info.attributes:
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
