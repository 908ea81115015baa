"""`ResumableStreams`: start or attach, replay, stop and continue, for any endpoint."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.responses import Response

from streamstores._creation import once_created
from streamstores._sse import encode_event
from streamstores.errors import (
    InvalidRequest,
    StreamExists,
    StreamNotFound,
)
from streamstores.http._asgi.bounded_reader import BoundedReader
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.event_stream import event_stream
from streamstores.http._asgi.exchange import Exchange
from streamstores.http._asgi.shutdown import Shutdown
from streamstores.http.resumable.framings import (
    EVENT_STREAM,
    EventIds,
    Framing,
    framing_of,
)
from streamstores.http.resumable.pings import with_pings
from streamstores.http.resumable.response import StreamResponse, refused, stream_headers
from streamstores.http.resumable.resume_point import resume_offset, resume_point
from streamstores.http.resumable.served_streams import ServedStreams, touch
from streamstores.http.resumable.source import AnySource, close_unread, records_of_source
from streamstores.limits import check_seconds
from streamstores.runs import Runs, Source
from streamstores.store import Record, State, StreamInfo, StreamStore

__all__ = ["ResumableStreams"]

_MEDIA_TYPE = "media_type"
_EVENT_IDS = "event_ids"
_COMMENT = b":\n\n"


class ResumableStreams:
    """The resumable streams of one process, for endpoints of any framework.

        streams = ResumableStreams(store)

        @app.post("/chat")
        async def chat(body: Body, user: User):
            return await streams.response(f"{user.id}/{body.id}", tokens(body))

        @app.get("/chat/{id}")
        async def resume(id: str, user: User, request: Request):
            return await streams.replay(f"{user.id}/{id}", request)

    What the source yields goes into the store, and from there to every client: the client
    that asked, those that come back, other tabs. The source runs on without readers too. A
    client that can name a stream can read it, so authorise before you call, or put the user
    into the id.

    - `ttl`: seconds that a stream lives after its last change; None keeps it.
    - `heartbeat`: seconds between the signs of life of a silent stream. After three times as
      long without any, its producer is taken for dead. The same in all processes of a store.
    - `ping_interval`: seconds of silence after which an event stream gets a comment.
    - `send_timeout`: seconds after which a client that takes nothing is dropped.
    - `pause_for`: seconds that a stopped source is held, so that `resume` can go on with it.
    - `max_runs`: the sources that this process holds at a time.
    - `revive(info)`: a source that goes on where the stream ends, after its process died or
      handed it over; None if there is none. Without `revive` such a stream is stopped.
    - `describe_error(exc)`: what clients are told when a source raises `exc`.
    - `ending(info)`, plain or async: the bytes after the last record of an event stream that
      has ended. By default an event `error` if the stream failed, else nothing.
    - `watch_signals`: end with the signal that ends the server, which otherwise waits for its
      responses first.

    Close it with `await streams.aclose()` or `async with streams:`. In Starlette and FastAPI
    `lifespan=streams.lifespan` does so, and closes the store too. One object belongs to one
    event loop.
    """

    def __init__(
        self,
        store: StreamStore,
        *,
        ttl: float | None = 86_400.0,
        heartbeat: float = 5.0,
        ping_interval: float = 15.0,
        send_timeout: float = 60.0,
        pause_for: float = 0.0,
        max_runs: int = 1000,
        revive: Callable[[StreamInfo], AnySource | None] | None = None,
        describe_error: Callable[[Exception], str] | None = None,
        ending: Callable[[StreamInfo], bytes | Awaitable[bytes]] | None = None,
        watch_signals: bool = True,
    ) -> None:
        self.store = store
        self._ttl = ttl
        self._revive = revive
        self._ending = ending or _error_event
        runs = Runs(
            store,
            revive=self._revived,
            heartbeat=heartbeat,
            pause_for=pause_for,
            max_runs=max_runs,
            describe_error=describe_error,
        )
        self._streams = ServedStreams(
            runs, event_stream(send_timeout, ping_interval, ping=_COMMENT)
        )
        self._shutdown = Shutdown(self._streams.hand_over, watches_signals=watch_signals)

    # --- with HTTP

    async def response(
        self,
        stream_id: str,
        source: AnySource,
        *,
        media_type: str = EVENT_STREAM,
        event_ids: EventIds = "offsets",
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Response:
        """Start the stream and answer with it. If it exists, answer with it from its start: a
        repeated request attaches, and begins no second generation.

        `source` is an iterator, asynchronous or plain, or a function that returns one. Of an
        event stream it may yield formatted text, objects for JSON, or `ServerSentEvent`; of
        newline-delimited JSON text or objects; of any other media type bytes or str.

        Each event is sent with its end offset as `id:`, from which `replay` goes on. With
        `event_ids="own"` the source's events are sent as they are, and `replay` looks for the
        id that the client names.

        Refusals are JSON with a stable `code`, as the project's other handlers give them: 400
        for an id that cannot be one, 429 at `max_runs`, 503 if the store cannot be used.
        """
        try:
            info = await self.start(
                stream_id,
                source,
                media_type=media_type,
                event_ids=event_ids,
                attributes=attributes,
            )
        except Exception as exc:
            return refused(exc)
        return self._respond(info, 0, status_code, headers)

    async def replay(
        self,
        stream_id: str,
        request: Any = None,
        *,
        offset: int | str | None = None,
        missing_status: int = 404,
        only_live: bool = False,
        repeat_ending: bool = False,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        wait_for_create: float = 0.0,
    ) -> Response:
        """Answer with an existing stream, from where the client left off, and follow it.

        The place is `offset`, or what `request` says, of any framework: its header
        `Last-Event-ID`, or `offset` in its query; else the start. A place inside an event or
        a line is refused (400 `invalid_offset`), one beyond the end too (416).

        Answers `missing_status`, with an empty body if that is 204, if there is no such
        stream. Answers 204, which ends the reconnects of an `EventSource`, to a client that has
        all of a finished event stream, unless `repeat_ending` asks for what `ending` returns;
        and with `only_live`, for any stream that has ended.

        `wait_for_create` is for a stream that a queued task will start: the answer waits so
        many seconds for it. If this object is closed meanwhile, the answer is 503.
        """
        try:
            self._check_open()
            info = await self._look(stream_id, wait_for_create)
            if only_live and info.state is not State.STREAMING:
                return Response(status_code=204)
            place = resume_point(request) if offset is None else offset
            start = await resume_offset(self.store, info, place, has_own_ids=_has_own_ids(info))
            # Without `start`, a new client of a stream that ended empty would take 204 for "no
            # such answer", and would never see how it ended.
            has_all = info.state.is_final and _sends_events(info) and 0 < start == info.tail
            if has_all and not repeat_ending:
                return Response(status_code=204)
        except StreamNotFound as exc:
            return Response(status_code=204) if missing_status == 204 else refused(exc)
        except Exception as exc:
            return refused(exc)
        return self._respond(info, start, status_code, headers)

    # --- without HTTP

    async def start(
        self,
        stream_id: str,
        source: AnySource,
        *,
        media_type: str = EVENT_STREAM,
        event_ids: EventIds = "offsets",
        attributes: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        """Start the stream, or find it started: returns its info.

        Of racing calls one starts it; the sources of the others are closed unread. Raises
        `InvalidRequest`, `TooManyRuns` and the store's errors.
        """
        if event_ids not in ("offsets", "own"):
            await close_unread(source)
            raise InvalidRequest(f"event_ids is 'offsets' or 'own', not {event_ids!r}")
        self._check_open()
        # In the stream, because another process, which has never seen this call, may have to
        # revive it or replay it.
        own = {_MEDIA_TYPE: media_type, _EVENT_IDS: event_ids}
        framing = framing_of(media_type, event_ids, self.store.limits.record_bytes)
        try:
            return await self._streams.runs.start(
                stream_id,
                records_of_source(source, framing),
                ttl=self._ttl,
                # The stream's own attributes come last: a caller's must not replace them.
                attributes={**(attributes or {}), **own},
            )
        except StreamExists as exc:
            await close_unread(source)
            return await touch(self.store, exc.info)
        except BaseException:
            await close_unread(source)
            raise

    async def stop(self, stream_id: str) -> StreamInfo:
        """Save what there is and halt the source, in whichever process it runs. Idempotent.

        Raises `StreamNotFound` and the store's errors.
        """
        return await self._streams.runs.stop(stream_id)

    async def resume(self, stream_id: str) -> StreamInfo:
        """Continue a stopped stream, with its held source or a revived one; if there is
        neither, it stays stopped. Raises `StreamNotFound`, `TooManyRuns` and the store's
        errors."""
        return await self._streams.runs.resume(stream_id)

    def is_running(self, stream_id: str) -> bool:
        """Whether this process holds the stream's source."""
        return self._streams.runs.is_running(stream_id)

    async def info(self, stream_id: str, *, wait_for_create: float = 0.0) -> StreamInfo:
        """The stream now, or as soon as it is created, within `wait_for_create` seconds.

        Raises `StreamNotFound`, and `StoreUnavailable` if this object is closed meanwhile.
        """
        check_seconds(wait_for_create, "wait_for_create")
        look = partial(self.store.info, stream_id)
        if not wait_for_create:
            return await look()
        created_by = time.monotonic() + wait_for_create
        waiting = once_created(self.store, stream_id, created_by, look)
        return await self._streams.unless_closed(waiting)

    async def follow(
        self, stream_id: str, offset: int = 0, *, wait_for_create: float = 0.0
    ) -> AsyncGenerator[Record, None]:
        """The records from `offset`, then live, to the end: for WebSockets, gRPC and the like.

        Raises as `follow` of the package does, except that a stream whose producer died is
        revived or stopped instead of `ProducerLost`. `wait_for_create` is that of `info`.
        """
        info = await self._look(stream_id, wait_for_create)
        follower = await self._streams.runs.follow(info, offset)
        try:
            while batch := await follower.batch():
                for record in batch:
                    yield record
        finally:
            await follower.aclose()

    async def body(
        self,
        stream_id: str,
        request: Any = None,
        *,
        offset: int | str | None = None,
        wait_for_create: float = 0.0,
    ) -> AsyncGenerator[bytes, None]:
        """What `replay` would send, pings included, for frameworks with responses of their own
        (Django, Litestar, aiohttp). `offset` may also be the id of the last event.

        Raises `StreamNotFound`, `OffsetOutOfRange` and `InvalidRequest`. `wait_for_create` is
        that of `info`."""
        info = await self._look(stream_id, wait_for_create)
        place = self.resume_point(request) if offset is None else offset
        try:
            start = await resume_offset(self.store, info, place, has_own_ids=_has_own_ids(info))
        except HttpError as exc:
            raise InvalidRequest(str(exc)) from exc
        reader = self._streams.open_reader(info, start)
        bodies = self._bodies(reader, info)
        if _sends_events(info):
            responses = self._streams.responses
            bodies = with_pings(bodies, responses.ping, responses.ping_interval)
        try:
            async for part in bodies:
                yield part
        finally:
            await bodies.aclose()
            await self._streams.close_reader(reader)

    @staticmethod
    def resume_point(request: Any) -> int | str:
        """Where a request of any framework says that its client left off: the event id in
        `Last-Event-ID`, or `offset` of the query, or 0. Raises `InvalidRequest`."""
        try:
            return resume_point(request)
        except HttpError as exc:
            raise InvalidRequest(str(exc)) from exc

    # --- the end

    async def aclose(self) -> None:
        """Hand over the streams that run here, and end their responses, so that clients
        reconnect elsewhere. Idempotent; later requests are refused with 503."""
        await self._shutdown.aclose()

    async def __aenter__(self) -> ResumableStreams:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncGenerator[None, None]:
        """For `FastAPI(lifespan=streams.lifespan)`: closes this object and the store."""
        async with self.store, self:
            yield

    # --- parts

    def _check_open(self) -> None:
        self._streams.check_open()
        self._shutdown.watch_signals()

    def _revived(self, info: StreamInfo) -> Source | None:
        if self._revive is None or _MEDIA_TYPE not in info.attributes:
            return None
        source = self._revive(info)
        return None if source is None else records_of_source(source, self._framing(info))

    def _framing(self, info: StreamInfo) -> Framing:
        media_type = info.attributes.get(_MEDIA_TYPE, "")
        event_ids = info.attributes.get(_EVENT_IDS, "own")
        return framing_of(media_type, event_ids, self.store.limits.record_bytes)

    async def _look(self, stream_id: str, wait_for_create: float = 0.0) -> StreamInfo:
        info = await self.info(stream_id, wait_for_create=wait_for_create)
        return await touch(self.store, info)

    def _respond(
        self, info: StreamInfo, offset: int, status: int, headers: Mapping[str, str] | None
    ) -> StreamResponse:
        media_type = info.attributes.get(_MEDIA_TYPE, "application/octet-stream")
        return StreamResponse(
            partial(self._send, info, offset),
            offset,
            media_type=media_type,
            status_code=status,
            headers=stream_headers(info.id, offset, media_type, headers),
        )

    async def _send(
        self,
        info: StreamInfo,
        offset: int,
        exchange: Exchange,
        response: StreamResponse,
    ) -> None:
        """Send the stream from `offset` to its end, as the body of `response`."""
        sends_events = _sends_events(info)
        responses = self._streams.responses
        reader = self._streams.open_reader(info, offset)
        try:
            await (responses if sends_events else responses._replace(ping=b"")).send(
                exchange,
                response.raw_headers,
                self._bodies(reader, info),
                status=response.status_code,
            )
        finally:
            await self._streams.close_reader(reader)

    def _bodies(self, reader: BoundedReader, info: StreamInfo) -> AsyncGenerator[bytes, None]:
        ending = self._ending if _sends_events(info) else _nothing
        return self._streams.bodies(reader, self._framing(info).body_of, ending)


def _has_own_ids(info: StreamInfo) -> bool:
    return info.attributes.get(_EVENT_IDS) == "own"


def _sends_events(info: StreamInfo) -> bool:
    return info.attributes.get(_MEDIA_TYPE, "").startswith(EVENT_STREAM)


def _nothing(info: StreamInfo) -> bytes:
    """The ending of what is not an event stream."""
    return b""


def _error_event(info: StreamInfo) -> bytes:
    if info.state is not State.ERROR:
        return b""
    return encode_event((info.error or "The stream failed.").encode(), name=b"error")
