"""The methods of the Durable Streams protocol, and the permission each of them needs."""

from __future__ import annotations

from starlette.requests import ClientDisconnect

from streamstores.errors import InvalidRequest
from streamstores.http._asgi.authorize import Authorize, check_allowed
from streamstores.http._asgi.errors import HttpError, refusal_of
from streamstores.http._asgi.exchange import Exchange
from streamstores.http._asgi.gate import Gate
from streamstores.http._asgi.handler import StreamHandler
from streamstores.http._asgi.patience import ClientPatience
from streamstores.http._asgi.requests import read_body
from streamstores.http.durable import request_headers
from streamstores.http.durable.appender import Appender
from streamstores.http.durable.creator import DurableStreamCreator
from streamstores.http.durable.drafts import AppendRequest, Taken
from streamstores.http.durable.forks import Forks
from streamstores.http.durable.live_reader import LiveReader
from streamstores.http.durable.offsets import format_offset
from streamstores.http.durable.reader import Reader, metadata_of
from streamstores.http.durable.request_headers import RequestHeaders
from streamstores.http.durable.responses import HeaderList, Responses
from streamstores.store import StreamStore

__all__ = ["create_durable_streams_app"]

_METHODS = "DELETE, GET, HEAD, OPTIONS, POST, PUT"


def create_durable_streams_app(
    store: StreamStore,
    *,
    authorize: Authorize | None = None,
    allow_origin: str | None = "*",
    max_body_bytes: int = 8_388_608,
    long_poll_seconds: float = 20.0,
    live_seconds: float = 60.0,
    producer_memory: float = 86_400.0,
    send_timeout: float = 60.0,
    watch_signals: bool = True,
) -> StreamHandler:
    """An ASGI application that speaks the Durable Streams protocol, to run or to mount.

    A stream's id is its path below the mount. Streams of other writers in the same store can
    be read; without a content type they count as `application/octet-stream`.

    - `authorize(request, stream_id, action)`, plain or async, is asked before anything else
      happens. Only `True` allows. The action is `create`, `append` (closing too), `read` or
      `delete`. A fork needs `create` and, for its source, `read`. Without `authorize` every
      client of the application may do everything.
    - `allow_origin`: the origin whose pages may use the application from a browser, or `"*"`.
      None leaves CORS to the application around it.
    - `max_body_bytes`: the longest body of a request, at most the store's `append_bytes`.
    - `long_poll_seconds` and `live_seconds`: how long a long-poll waits, and how long a
      response of server-sent events lasts. Clients then ask again.
    - `producer_memory`: seconds of silence after which an idempotent producer may be forgotten,
      if a stream has more producers than its attributes can hold.
    - `send_timeout`: seconds after which a client that takes nothing is dropped, by closing
      its connection.
    - `watch_signals`: end live responses on the signal that ends the server, which otherwise
      waits for them first.

    Raises `InvalidRequest` for settings out of range.
    """
    if not 0 < max_body_bytes <= store.limits.append_bytes:
        most = store.limits.append_bytes
        raise InvalidRequest(f"max_body_bytes is 1 to {most}, the most that one append takes")
    if not (long_poll_seconds > 0 and live_seconds > 0 and producer_memory >= 0):
        message = "long_poll_seconds and live_seconds are above 0, producer_memory at least 0"
        raise InvalidRequest(message)
    patience = ClientPatience(send_timeout, Gate())
    server = _DurableStreams(
        store,
        authorize,
        Responses(allow_origin),
        max_body_bytes=max_body_bytes,
        long_poll_seconds=long_poll_seconds,
        live_seconds=live_seconds,
        producer_memory=producer_memory,
        patience=patience,
    )
    return StreamHandler(
        {},
        server.close,
        store=store,
        every_path=server.serve,
        patience=patience,
        watch_signals=watch_signals,
    )


class _DurableStreams:
    """The methods of the protocol, on one store."""

    def __init__(
        self,
        store: StreamStore,
        authorize: Authorize | None,
        responses: Responses,
        *,
        max_body_bytes: int,
        long_poll_seconds: float,
        live_seconds: float,
        producer_memory: float,
        patience: ClientPatience,
    ) -> None:
        self._store = store
        self._authorize = authorize
        self._responses = responses
        self._max_body_bytes = max_body_bytes
        self._gate = patience.gate
        self._forks = Forks(store)
        self._appender = Appender(store, self._forks, producer_memory)
        self._creator = DurableStreamCreator(store, self._forks)
        # A shared cache would serve clients that `authorize` was not asked about.
        scope = b"public" if authorize is None else b"private"
        self._reader = Reader(
            store,
            self._forks,
            responses,
            cache_control=scope + b", max-age=60, stale-while-revalidate=300",
            long_poll_seconds=long_poll_seconds,
            gate=self._gate,
        )
        self._live_reader = LiveReader(
            store, self._reader, responses, live_seconds=live_seconds, patience=patience
        )
        self._methods = {
            "GET": self._get,
            "HEAD": self._head,
            "POST": self._post,
            "PUT": self._put,
            "DELETE": self._delete,
        }

    async def serve(self, exchange: Exchange) -> None:
        """Answer a request. Refusals too carry CORS headers, so that pages can read them."""
        method = exchange.scope["method"]
        try:
            if method == "OPTIONS":
                await self._responses.allow(exchange.send)
                return
            answer = self._methods.get(method)
            if answer is None:
                headers = {"Allow": _METHODS}
                message = f"a stream takes {_METHODS}"
                raise HttpError(405, "method_not_allowed", message, headers=headers)
            self._gate.check_open()
            await answer(exchange, dict(exchange.scope["headers"]))
        except (ClientDisconnect, OSError):
            return  # the client has left
        except Exception as exc:
            await self._responses.refuse(
                exchange.send, refusal_of(exc), with_body=method != "HEAD"
            )

    async def close(self) -> None:
        """End the live responses, whose clients then reconnect elsewhere."""
        self._gate.close()
        await self._appender.aclose()

    async def _get(self, exchange: Exchange, headers: RequestHeaders) -> None:
        stream_id = await self._allowed(exchange, "read")
        reading = request_headers.read_reading(exchange)
        if reading.live == "sse":
            await self._live_reader.send(exchange, stream_id, reading)
        elif reading.live == "long-poll":
            await self._reader.long_poll(exchange, headers, stream_id, reading)
        else:
            await self._reader.catch_up(exchange, headers, stream_id, reading)

    async def _head(self, exchange: Exchange, headers: RequestHeaders) -> None:
        await self._reader.head(exchange, await self._allowed(exchange, "read"))

    async def _post(self, exchange: Exchange, headers: RequestHeaders) -> None:
        # The permission before the body, which may be megabytes that a stranger sends.
        stream_id = await self._allowed(exchange, "append")
        body = await self._body(exchange, headers)
        request = request_headers.read_append(headers, body, self._store.limits)
        taken = await self._appender.append(stream_id, request)
        status = 200 if taken.is_new and request.claim is not None and request.chunks else 204
        await self._responses.confirm(
            exchange.send, status, _headers_of(request, taken), has_origin=b"origin" in headers
        )

    async def _put(self, exchange: Exchange, headers: RequestHeaders) -> None:
        """Create a stream or a fork. Both permissions are checked before the body is read."""
        stream_id = await self._allowed(exchange, "create")
        creation = request_headers.read_creation(exchange, headers, self._store.limits)
        if creation.fork is not None:
            await self._check(exchange, creation.fork.source_id, "read")
        body = await self._body(exchange, headers)
        info, is_new = await self._creator.create(stream_id, creation, body)
        answer = metadata_of(info)
        if is_new:
            self._appender.forget(stream_id)
            answer.append(
                (b"location", request_headers.location_of(exchange, headers, stream_id))
            )
        await self._responses.send(exchange.send, 201 if is_new else 200, answer, b"")

    async def _delete(self, exchange: Exchange, headers: RequestHeaders) -> None:
        stream_id = await self._allowed(exchange, "delete")
        info = await self._store.info(stream_id)
        # A tombstone answers 410 and an unfinished copy 404: neither may be deleted by clients.
        await self._forks.check_exists(info)
        await self._forks.delete(info)
        self._appender.forget(stream_id)
        await self._responses.send(exchange.send, 204)

    async def _allowed(self, exchange: Exchange, action: str) -> str:
        stream_id = request_headers.stream_id_of(exchange, self._store.limits)
        await self._check(exchange, stream_id, action)
        return stream_id

    async def _check(self, exchange: Exchange, stream_id: str, action: str) -> None:
        if self._authorize is not None:
            await check_allowed(self._authorize, exchange, stream_id, action)

    async def _body(self, exchange: Exchange, headers: RequestHeaders) -> bytes:
        announced = headers.get(b"content-length", b"").decode("latin-1")
        exchange.body = await read_body(exchange, self._max_body_bytes, announced)
        return exchange.body


def _headers_of(request: AppendRequest, taken: Taken) -> HeaderList:
    headers: HeaderList = [(b"stream-next-offset", format_offset(taken.tail).encode())]
    if taken.is_closed:
        headers.append((b"stream-closed", b"true"))
    if request.claim is not None:
        headers.append((b"producer-epoch", b"%d" % (taken.epoch or 0)))
        headers.append((b"producer-seq", b"%d" % (taken.seq or 0)))
    return headers
