"""The Python client of the chat handler: the same machine as the JavaScript one.

    idle → streaming → stopped | reconnecting → disconnected | done        (and error)

`Stream` is what a user holds. It chooses the stream's id itself, so a POST whose answer was
lost is repeated and attaches to what it started: a lost connection never pays twice.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeVar

import anyio
import httpx

from streamstores._client.answers import Cut, StreamError, check, cuts, ping_seconds
from streamstores._client.events import EventParser, ServerSentEvent

__all__ = ["Status", "Stream", "StreamError", "StreamEvent"]

T = TypeVar("T")

ACCEPT = "text/event-stream; text=json"
"""Asks for text with a carriage return as JSON, which alone carries it exactly."""

REQUEST_TIMEOUT_SECONDS = 30.0
"""Until the headers of an answer are there."""


class Status(str, Enum):
    """Where a `Stream` is; a plain string of the same value does as well."""

    IDLE = "idle"
    """Nothing was sent yet, or `abort` left it."""
    STREAMING = "streaming"
    RECONNECTING = "reconnecting"
    """On its way to a stream that was begun before: after a cut, `attach` or `resume`."""
    STOPPED = "stopped"
    """Somebody stopped it; `resume` continues."""
    DISCONNECTED = "disconnected"
    """All tries failed; the server may well go on. `resume` tries again."""
    DONE = "done"
    ERROR = "error"
    """The stream failed, or the server refused; `Stream.error` says which."""

    def __str__(self) -> str:
        return self.value


_LOADING = frozenset({Status.STREAMING, Status.RECONNECTING})
_RESUMABLE = frozenset({Status.STOPPED, Status.DISCONNECTED})

_Ending = tuple[Status, "StreamError | None"]


class StreamEvent(NamedTuple):
    """A named event of the stream: `usage`, `tool_call`, or what the model function chose."""

    name: str
    data: str
    offset: int
    """The byte offset after the event."""


class _Request(NamedTuple):
    method: str
    path: str
    query: Mapping[str, str] | None = None
    body: Mapping[str, Any] | None = None


class Stream:
    """One answer at a time from a chat handler, whatever happens to the connection.

    `endpoint` is where the handler is mounted plus `/stream`. With a `stream_id` the stream
    of that id is followed from its start as soon as this object is entered, iterated or waited
    for, as after a restart; `offset` says how much of it is there already.

        async with Stream("https://example.org/chat/stream") as stream:
            await stream.send("Why is the sky blue?")
            async for piece in stream:
                print(piece, end="", flush=True)

    The iteration gives each piece of text once, in order, and ends where the stream is done
    or stopped; where it failed, was refused or is out of reach it raises `error`. Nothing
    needs to iterate: a task of its own reads, keeps `text` and `status`, and calls
    `on_change` (with this object) and `on_event` (with each named event).

    After a cut it reconnects up to `retries` times, after `backoff` seconds that double and
    are jittered, or what the server's Retry-After says; any event of the stream renews the
    tries. A body that ends without `done` was cut, and so was one silent for three pings.
    Reconnects only follow: they never undo a Stop that came from elsewhere.

    `client` is an `httpx.AsyncClient` for proxies, authentication and the like, and stays
    open; `headers` go with every request. One object belongs to one event loop.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        stream_id: str | None = None,
        offset: int = 0,
        client: httpx.AsyncClient | None = None,
        headers: Mapping[str, str] | None = None,
        retries: int = 3,
        backoff: float = 0.5,
        on_change: Callable[[Stream], object] | None = None,
        on_event: Callable[[StreamEvent], object] | None = None,
    ) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.stream_id = stream_id
        """Persist it, with `offset`, to continue in another process."""
        self.offset = offset
        """The byte offset behind all that has arrived."""
        self.status = Status.IDLE
        self.error: StreamError | None = None
        self._client = client
        self._owns_client = client is None
        self._headers = dict(headers or {})
        self._retries = retries
        self._backoff = backoff
        self._on_change = on_change
        self._on_event = on_event
        self._text: list[str] = []
        self._pieces: deque[str] = deque()
        self._events: deque[StreamEvent] = deque()
        self._prompt: dict[str, Any] | None = None
        self._is_known = False  # whether the server ever answered with this stream
        self._progressed = False  # whether this connection brought anything
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._attach_first = stream_id is not None
        self._closed = False

    @property
    def text(self) -> str:
        """All of it that has arrived, from `offset` on where one was given."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    @property
    def loading(self) -> bool:
        """Whether more may come by itself."""
        return self.status in _LOADING

    @property
    def can_resume(self) -> bool:
        """Whether `resume` has something to continue."""
        return self.stream_id is not None and self.status in _RESUMABLE

    async def send(
        self,
        prompt: str,
        *,
        system: str | None = None,
        model: str | None = None,
        session_id: str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        stream_id: str | None = None,
    ) -> str:
        """Begin a new answer and return its id at once, without waiting for the server.

        A stream this object still reads is left to itself, as by `abort`. `stream_id` is
        for a caller that wants to choose the id; sending a living one again attaches to it.
        """
        fields = {
            "prompt": prompt,
            "system": system,
            "model": model,
            "sessionId": session_id,
            "messages": None if messages is None else list(messages),
        }
        body = {name: value for name, value in fields.items() if value is not None}
        return await self._begin(body, stream_id or secrets.token_urlsafe(16))

    async def attach(self, stream_id: str, *, offset: int = 0) -> None:
        """Follow a stream that was begun elsewhere, from `offset`; a stopped one stays so."""
        await self._leave()
        self._reset(stream_id, offset)
        self._is_known = True
        self._start(self._follow_request(), Status.RECONNECTING)

    async def resume(self) -> None:
        """Continue a stopped stream, or reach for one that was lost; else do nothing."""
        if not self.can_resume:
            return
        await self._leave()
        if self._prompt is not None and not self._is_known:
            request = self._send_request(self._prompt)  # perhaps it never arrived
        else:
            body = {"id": self.stream_id, "after": self.offset}
            request = _Request("POST", "/resume", body=body)
        self._start(request, Status.RECONNECTING)

    async def retry(self) -> str | None:
        """Send the last prompt again, as a new answer with a new id; None if there is none."""
        if self._prompt is None:
            return None
        return await self._begin(self._prompt, secrets.token_urlsafe(16))

    async def stop(self) -> None:
        """Halt the model and keep what there is; returns when the stream has ended here.

        Repeated while the server is out of reach, as often as a reconnect. Raises
        `StreamError` where it is refused or never arrives; then the stream goes on.
        """
        stream_id = self.stream_id
        while self._reads(stream_id) and not self._is_known:
            await self._next_change()  # a stream the server does not know yet cannot be stopped
        lost = self.stream_id == stream_id and self.status is Status.DISCONNECTED
        if not self._reads(stream_id) and not lost:
            return
        await self._command(_Request("POST", "/stop", body={"id": stream_id}))
        if lost and self.status is Status.DISCONNECTED:
            self._start(self._follow_request(), Status.RECONNECTING)
        while self._reads(stream_id):
            await self._next_change()

    async def abort(self) -> None:
        """Let go of a stream that has not ended here; the server finishes it alone."""
        await self._leave()
        if self.loading or self.status is Status.DISCONNECTED:
            self._set(Status.IDLE)

    async def wait(self) -> Status:
        """Wait until nothing more comes by itself; says how it is then. Raises nothing."""
        self._attach_if_given()
        while self.loading:
            await self._next_change()
        return self.status

    async def events(self) -> AsyncIterator[StreamEvent]:
        """The named events as they come, each once; ends and raises as the iteration of
        text does."""
        while (event := await self._next(self._events)) is not None:
            yield event

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> str:
        piece = await self._next(self._pieces)
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Let go as `abort` does, and close the connection. Idempotent, and final."""
        self._closed = True
        await self.abort()
        if self._owns_client and self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def __aenter__(self) -> Stream:
        self._attach_if_given()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _begin(self, body: dict[str, Any], stream_id: str) -> str:
        await self._leave()
        self._reset(stream_id, 0)
        self._prompt = body
        self._is_known = False
        self._start(self._send_request(body), Status.STREAMING)
        return stream_id

    def _reset(self, stream_id: str, offset: int) -> None:
        self.stream_id = stream_id
        self.offset = offset
        self._text = []
        self._pieces.clear()
        self._events.clear()
        self._attach_first = False

    def _attach_if_given(self) -> None:
        if self._attach_first:
            self._attach_first = False
            self._is_known = True
            self._start(self._follow_request(), Status.RECONNECTING)

    def _send_request(self, body: Mapping[str, Any]) -> _Request:
        return _Request("POST", "", body={**body, "id": self.stream_id})

    def _follow_request(self) -> _Request:
        query = {"id": str(self.stream_id), "after": str(self.offset), "mode": "follow"}
        return _Request("GET", "/resume", query=query)

    def _start(self, request: _Request, status: Status) -> None:
        if self._closed:
            raise RuntimeError("this Stream is closed")
        if self._task is not None:
            self._task.cancel()  # of a call that ran at the same time as this one
        self._set(status)
        name = f"streamstores: read {self.stream_id}"
        self._task = asyncio.get_running_loop().create_task(self._run(request), name=name)

    async def _leave(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, request: _Request) -> None:
        """The one task that reads: connect, and again after a cut, until it is settled."""
        try:
            self._set(*await self._read_patiently(request))
        except StreamError as exc:
            lost = exc.code == "disconnected"
            self._set(Status.DISCONNECTED if lost else Status.ERROR, exc)
        except Exception as exc:
            error = StreamError(repr(exc), code="client")
            error.__cause__ = exc
            self._set(Status.ERROR, error)

    async def _read_patiently(self, request: _Request) -> _Ending:
        failures = 0
        while True:
            self._progressed = False
            try:
                return await self._read(request)
            except Cut as cut:
                failures = 1 if self._progressed else failures + 1
                self._check_budget(failures, cut)
                self._set(Status.RECONNECTING)
                await self._pause(failures, cut.retry_after)
                if self._is_known and not cut.nothing_happened:
                    request = self._follow_request()

    async def _read(self, request: _Request) -> _Ending:
        """One connection to its `done`; says how the stream ended. Raises `Cut`."""
        ending: _Ending = (Status.DONE, None)
        parser = EventParser()
        with cuts(), anyio.fail_after(REQUEST_TIMEOUT_SECONDS) as scope:
            async with self._open(request) as response:
                await check(response)
                self._is_known = True
                self._wake()
                self._set(Status.STREAMING)
                silence = 3 * ping_seconds(response)
                scope.deadline = anyio.current_time() + silence
                async for chunk in response.aiter_bytes():
                    scope.deadline = anyio.current_time() + silence
                    for event in parser.feed(chunk):
                        if event.name == "done":
                            return ending
                        ending = self._take(event) or ending
        raise Cut("the answer ended without done")

    def _take(self, event: ServerSentEvent) -> _Ending | None:
        """Take in one event; says how the stream ended where the event does."""
        self._progressed |= event.name != "stream-id"
        if event.name == "stopped":
            return Status.STOPPED, None
        if event.name == "error" and event.id is None:
            return Status.ERROR, StreamError(event.data, code="stream_error")
        if event.id is None or not event.id.isdecimal() or int(event.id) <= self.offset:
            return None
        self.offset = int(event.id)
        if event.name in ("", "text"):
            piece: str = json.loads(event.data) if event.name else event.data
            self._text.append(piece)
            self._pieces.append(piece)
        else:
            named = StreamEvent(event.name, event.data, self.offset)
            self._events.append(named)
            self._call(self._on_event, named)
        self._announce()
        return None

    async def _command(self, request: _Request) -> None:
        """A request without a stream, repeated as a reconnect is."""
        failures = 0
        while True:
            try:
                with cuts(), anyio.fail_after(REQUEST_TIMEOUT_SECONDS):
                    async with self._open(request) as response:
                        await check(response, "application/json")
                        return
            except Cut as cut:
                failures += 1
                self._check_budget(failures, cut)
                await self._pause(failures, cut.retry_after)

    def _open(self, request: _Request) -> Any:
        if self._client is None:
            self._client = httpx.AsyncClient()
        return self._client.stream(
            request.method,
            self.endpoint + request.path,
            params=request.query,
            json=request.body,
            headers={"Accept": ACCEPT, "Accept-Encoding": "identity", **self._headers},
            timeout=None,  # the deadlines are set where the pings are known
        )

    def _check_budget(self, failures: int, cut: Cut) -> None:
        if failures > self._retries:
            message = f"the server is out of reach: {cut}"
            raise StreamError(message, code="disconnected") from cut

    async def _pause(self, failures: int, retry_after: float) -> None:
        jittered = self._backoff * 2 ** (failures - 1) * random.uniform(0.5, 1.0)
        await asyncio.sleep(max(jittered, retry_after))

    async def _next(self, queue: deque[T]) -> T | None:
        """The next of a queue, None at the end; raises where the stream did not end well."""
        self._attach_if_given()
        while not queue:
            if self.loading:
                await self._next_change()
            elif self.error is not None:
                raise self.error.with_traceback(None)
            else:
                return None
        return queue.popleft()

    def _set(self, status: Status, error: StreamError | None = None) -> None:
        if (status, error) != (self.status, self.error):
            self.status = status
            self.error = error
            self._announce()

    def _announce(self) -> None:
        self._wake()
        self._call(self._on_change, self)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _reads(self, stream_id: str | None) -> bool:
        return self.loading and self.stream_id == stream_id

    async def _next_change(self) -> None:
        await self._changed.wait()

    def _call(self, callback: Callable[[T], object] | None, argument: T) -> None:
        """A user's callback; its exception goes to the loop's handler, and reading goes on."""
        if callback is None:
            return
        try:
            callback(argument)
        except Exception as exc:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a callback of streamstores.client.Stream failed", "exception": exc}
            )
