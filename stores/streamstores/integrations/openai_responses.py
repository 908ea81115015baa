"""OpenAI's Responses API, resumable: an endpoint, and sources that resume at OpenAI.

Written against `openai` 3, whose clients resume with `responses.retrieve(id, stream=True,
starting_after=number)`. The endpoint needs the extra `http`, and the sources need the package
`openai` from version 1.82. The protocol: https://developers.openai.com/api/docs/guides/background
"""

from __future__ import annotations

import hashlib
import inspect
import json
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Union

try:
    from starlette.responses import JSONResponse, Response
except ModuleNotFoundError as _missing_module:
    raise ImportError(
        f"streamstores.integrations.openai_responses needs {_missing_module.name}: "
        'pip install "streamstores[http]"',
        name=_missing_module.name,
    ) from _missing_module

from streamstores.errors import StreamExists, StreamNotFound
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.exchange import Exchange
from streamstores.http.resumable import AnySource, ResumableStreams, ServerSentEvent, iterate
from streamstores.integrations._mounted_endpoint import Identify, MountedEndpoint
from streamstores.integrations._openai_background import background_response, resumed_response
from streamstores.integrations._openai_events import (
    ResponseEvents,
    as_sent,
    encoded,
    event_of,
    response_object,
)
from streamstores.integrations._stored_events import last_record, stored_records
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["OpenAIResponses", "ResponseRequest", "background_response", "resumed_response"]

_PREFIX = "openai-response/"
_REQUEST_PREFIX = "openai-request/"
_ID = "(?P<response_id>resp_[A-Za-z0-9_-]{1,64})"
_LOST = "The process that produced this response ended."


@dataclass(frozen=True)
class ResponseRequest:
    """What a client asked for."""

    id: str
    """The id of the response."""
    user: str
    """What `identify` returned; the empty text without it."""
    body: Mapping[str, Any]
    """The JSON of the request: `model`, `input` and so on."""
    text: str = ""
    """If a response is continued: what has been said so far."""


Respond = Callable[[ResponseRequest], Union[AnySource, Awaitable[AnySource]]]


class OpenAIResponses(MountedEndpoint):
    """The Responses API as an ASGI application, with responses that survive broken
    connections, restarts and dead processes.

        responses = OpenAIResponses(store, respond)
        app = FastAPI(lifespan=responses.lifespan)
        app.mount("/v1", responses)

    `respond(request)`, plain or async, returns the source of a response. It yields text, or
    events of a response as dicts or as objects of `openai`. The endpoint gives them numbers,
    and adds the events of the beginning, of messages made of text, and of the end. To refuse
    a request, `respond` raises Starlette's or FastAPI's `HTTPException`.

    - `identify(request)`, plain or async, returns the user that sent a request, or None to
      refuse it with 401. A user reaches only their own responses. Without it, every client
      that knows an id, which has 192 random bits, can read and cancel the response.
    - `revive(request)` returns a source that continues where `request.text` ends, after the
      process of the first one has died. Without it such a response fails. A request is saved
      only if there is a `revive`, as a stream of its own.
    - `max_body_bytes` bounds a request.

    The other options are those of `ResumableStreams`. Every response runs to its end without
    readers too, whether or not the request says `background`.

    `POST /responses` with a header `Idempotency-Key` attaches to the response that the same
    user's request with the same key and body has begun. Clients repeat a POST after some
    errors; without the header a repeated POST is another response.
    """

    def __init__(
        self,
        store: StreamStore,
        respond: Respond,
        *,
        identify: Identify | None = None,
        revive: Respond | None = None,
        max_body_bytes: int = 1_048_576,
        ttl: float | None = 86_400.0,
        **options: Any,
    ) -> None:
        super().__init__(
            ResumableStreams(
                store, ttl=ttl, revive=self._revived, ending=self._ending, **options
            ),
            {
                ("POST", "/responses"): self._create,
                ("GET", f"/responses/{_ID}"): self._retrieve,
                ("DELETE", f"/responses/{_ID}"): self._delete,
                ("POST", f"/responses/{_ID}/cancel"): self._cancel,
            },
            identify=identify,
            max_body_bytes=max_body_bytes,
        )
        self._store = store
        self._respond = respond
        self._revive = revive
        self._ttl = ttl

    # --- the endpoints

    async def _create(self, exchange: Exchange, user: str) -> Response:
        """Begin a response, and answer with its events, with its end, or at once."""
        body = await self._body(exchange)
        for name in ("stream", "background"):
            if not isinstance(body.get(name), (bool, type(None))):
                raise HttpError(400, "invalid_type", f"{name} is a boolean", param=name)
        request = ResponseRequest(_new_id(exchange, user, body), user, body)
        source = self._respond(request)
        if inspect.isawaitable(source):
            source = await source
        created = response_object(request.id, body, int(time.time()))
        stream_id = _stream_id(user, request.id)
        if self._revive is not None:
            await self._save(request)
        events = self._events(source, ResponseEvents(created))
        await self.streams.start(stream_id, events, event_ids="own")
        if body.get("stream"):
            return await self.streams.replay(stream_id)
        if not body.get("background"):
            await self._to_the_end(stream_id)
        return await self._object(stream_id)

    async def _retrieve(self, exchange: Exchange, user: str, response_id: str) -> Response:
        """Answer with the response as it is now, or with its events after a number."""
        query = exchange.request().query_params
        stream_id = _stream_id(user, response_id)
        if query.get("stream", "").lower() not in ("true", "1"):
            return await self._object(stream_id)
        after = query.get("starting_after", "")
        if not after:
            return await self.streams.replay(stream_id)
        if not (after.isascii() and after.isdigit() and len(after) < 20):
            raise _no_such_number(after)
        info = await self._store.info(stream_id)
        # The event of a cancelled or failed response's end is made when it is sent.
        if int(after) == await self._last_number(info) + 1 and info.state in _UNSAID_ENDS:
            return Response(media_type="text/event-stream")
        response = await self.streams.replay(
            stream_id, offset=str(int(after)), repeat_ending=True
        )
        if response.status_code == 400:
            raise _no_such_number(after)
        return response

    async def _cancel(self, exchange: Exchange, user: str, response_id: str) -> Response:
        stream_id = _stream_id(user, response_id)
        await self.streams.stop(stream_id)
        return await self._object(stream_id)

    async def _delete(self, exchange: Exchange, user: str, response_id: str) -> Response:
        await self._store.delete(_stream_id(user, response_id))
        with suppress(StreamNotFound):
            await self._store.delete(_request_id(user, response_id))
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    def _refuse(self, error: HttpError) -> Response:
        kinds = {404: "not_found_error", 429: "rate_limit_error", 401: "authentication_error"}
        is_fault = error.status >= 500
        kind = "server_error" if is_fault else kinds.get(error.status, "invalid_request_error")
        param = error.details.get("param")
        body = {"message": str(error), "type": kind, "param": param, "code": error.code}
        headers = {"Cache-Control": "no-store", **error.headers}
        return JSONResponse({"error": body}, error.status, headers)

    # --- sources

    async def _events(
        self, source: AnySource, events: ResponseEvents
    ) -> AsyncGenerator[ServerSentEvent, None]:
        """The events of a response, from its first or from where `events` has come to."""
        if events.last_number < 0:
            for event in events.begin():
                yield as_sent(event)
        pieces = iterate(source)
        try:
            async for piece in pieces:
                for event in events.of(piece):
                    yield as_sent(event)
        finally:
            await pieces.aclose()
        for event in events.end():
            yield as_sent(event)

    def _revived(self, info: StreamInfo) -> AnySource | None:
        return self._continued(info) if info.id.startswith(_PREFIX) else None

    async def _continued(self, info: StreamInfo) -> AsyncGenerator[ServerSentEvent, None]:
        """The rest of a response whose process has died: continued, or its failure."""
        events = await self._stored(info)
        if events.has_ended:  # only the end of the stream was lost
            return
        source = await self._revived_source(info, events.text)
        if source is None:
            for event in () if events.last_number >= 0 else events.begin():
                yield as_sent(event)
            error = {"code": "server_error", "message": _LOST}
            yield as_sent(events.ended("response.failed", status="failed", error=error))
            return
        rest = self._events(source, events)
        try:
            async for sent in rest:
                yield sent
        finally:
            await rest.aclose()

    async def _revived_source(self, info: StreamInfo, text: str) -> AnySource | None:
        if self._revive is None:
            return None
        user, _, response_id = info.id.removeprefix(_PREFIX).rpartition("/")
        try:
            saved = await self._store.info(_request_id(user, response_id))
        except StreamNotFound:
            return None
        parts = [record.data async for record in stored_records(self._store, saved)]
        body = json.loads(b"".join(parts))
        source = self._revive(ResponseRequest(response_id, user, body, text))
        return await source if inspect.isawaitable(source) else source

    async def _save(self, request: ResponseRequest) -> None:
        """Keep the request for `revive`."""
        data, size = json.dumps(request.body).encode(), self._store.limits.record_bytes
        chunks = [data[start : start + size] for start in range(0, len(data), size)]
        name = _request_id(request.user, request.id)
        with suppress(StreamExists):
            await self._store.create(name, *chunks, ttl=self._ttl, state=State.DONE)

    # --- what is stored

    async def _object(self, stream_id: str) -> Response:
        """The response as it is now."""
        info = await self._store.info(stream_id)
        while not info.tail and info.state is State.STREAMING:
            # It has just begun, and its first event will be there in a moment.
            await self._first_record(stream_id)
            info = await self._store.info(stream_id)
        if info.state is State.STREAMING:
            self._watch(info)
        events = await self._stored(info)
        found = events.response if events.has_ended else events.snapshot(**_ending_of(info))
        return Response(encoded(found), media_type="application/json")

    async def _stored(self, info: StreamInfo) -> ResponseEvents:
        """What the records of a stream say."""
        _, _, response_id = info.id.rpartition("/")
        created_at = int(info.created_at.timestamp())
        events = ResponseEvents(response_object(response_id, {}, created_at))
        async for record in stored_records(self._store, info):
            events.note(event_of(record.data))
        return events

    async def _last_number(self, info: StreamInfo) -> int:
        record = await last_record(self._store, info)
        return -1 if record is None else int(event_of(record.data)["sequence_number"])

    async def _ending(self, info: StreamInfo) -> bytes:
        """The last event of a response that was cancelled or has failed."""
        if info.state not in _UNSAID_ENDS:
            return b""
        events = await self._stored(info)
        if events.has_ended:
            return b""
        is_failed = info.state is State.ERROR
        kind = "response.failed" if is_failed else "response.incomplete"
        event = events.ended(kind, **_ending_of(info))
        sent = as_sent(event)
        return f"id: {sent.id}\nevent: {sent.name}\ndata: {sent.data}\n\n".encode()

    async def _first_record(self, stream_id: str) -> None:
        records = self.streams.follow(stream_id)
        async for _ in records:
            break
        await records.aclose()


_UNSAID_ENDS = frozenset({State.STOPPED, State.ERROR})


def _ending_of(info: StreamInfo) -> dict[str, Any]:
    """How a response ends whose last event is not among its records."""
    if info.state is State.STOPPED:
        return {"status": "cancelled"}
    if info.state is State.ERROR:
        message = info.error or "The response failed."
        return {"status": "failed", "error": {"code": "server_error", "message": message}}
    return {}


def _new_id(exchange: Exchange, user: str, body: Mapping[str, Any]) -> str:
    key = exchange.headers.get("idempotency-key")
    if not key:
        return f"resp_{secrets.token_urlsafe(24)}"
    # The body is part of it: whoever only guesses the key of another client, in an application
    # without users, gets a response of their own.
    named = json.dumps([user, key, body], sort_keys=True)
    return f"resp_{hashlib.sha256(named.encode()).hexdigest()}"


def _stream_id(user: str, response_id: str) -> str:
    return f"{_PREFIX}{user}/{response_id}"


def _request_id(user: str, response_id: str) -> str:
    return f"{_REQUEST_PREFIX}{user}/{response_id}"


def _no_such_number(after: str) -> HttpError:
    message = f"no event of this response has the number {after[:40]!r}"
    return HttpError(400, "invalid_value", message, param="starting_after")
