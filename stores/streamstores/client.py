"""The Python client of the chat handler.

    idle → streaming → stopped | reconnecting → disconnected | done        (and error)

The JavaScript client has the same states, and one table of transitions drives the tests of
both. `Stream` chooses the id of a stream itself. A POST whose answer was lost is therefore
repeated with the same id and attaches to what the first one started, so that a lost
connection never pays for a second answer.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

from streamstores._client import requests
from streamstores._client.answers import Cut, ping_seconds, text_of_json
from streamstores._client.callbacks import call_safely
from streamstores._client.connection import HttpClient, HttpConnection
from streamstores._client.requests import WireRequest
from streamstores._client.retries import RetryBudget
from streamstores._client.statuses import Status, StreamError, StreamEvent
from streamstores._sse import EventParser, ServerSentEvent

__all__ = ["Status", "Stream", "StreamError", "StreamEvent"]

T = TypeVar("T")

SILENT_PINGS = 3
"""Pings that may be missing before a connection counts as lost."""

_LOADING = frozenset({Status.STREAMING, Status.RECONNECTING})
_RESUMABLE = frozenset({Status.STOPPED, Status.DISCONNECTED})

_Ending = tuple[Status, "StreamError | None"]


class Stream:
    """One answer at a time from a chat handler, through every loss of the connection.

        async with Stream("https://example.org/chat/stream") as stream:
            await stream.send("Why is the sky blue?")
            async for piece in stream:
                print(piece, end="", flush=True)

    `endpoint` is the address where the handler is mounted, plus `/stream`. If `stream_id` is
    given, that stream is followed from its start as soon as this object is entered, iterated
    or waited for, as after a restart; `offset` says how many bytes of it are here already.

    The iteration gives each piece of text once and in order. It ends when the stream is done
    or stopped, and raises `error` if the stream failed, was refused or is out of reach.
    Iterating is optional: a task of this object reads, keeps `text` and `status` up to date,
    and calls `on_change` (with this object) and `on_event` (with each named event).

    After a cut the client reconnects up to `retries` times in a row. The pauses begin at
    `backoff` seconds, double up to half a minute, and are jittered; a Retry-After of the
    server, up to a minute, prolongs them. Every event of the stream renews the attempts. A
    body that ends without `done` was cut, and so was a body silent for three pings.
    A reconnect only follows, so it never undoes a Stop that came from elsewhere.

    A handler with `resumable=False` keeps nothing: its text arrives too, but after a cut the
    status is `error` with the code `not_kept`.

    `client` is an `httpx.AsyncClient` (or one of `httpx2`) for proxies, authentication and
    the like; it stays open. `headers` are sent with every request. An object of this class
    belongs to one event loop.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        stream_id: str | None = None,
        offset: int = 0,
        client: HttpClient | None = None,
        headers: Mapping[str, str] | None = None,
        retries: int = 3,
        backoff: float = 1.0,
        on_change: Callable[[Stream], object] | None = None,
        on_event: Callable[[StreamEvent], object] | None = None,
    ) -> None:
        self.stream_id = stream_id
        """Store it, with `offset`, to go on in another process."""
        self.offset: int = offset
        """The byte offset after everything that has arrived."""
        self.status: Status = Status.IDLE
        self.error: StreamError | None = None
        self._connection = HttpConnection(endpoint, client, headers)
        self._retries = retries
        self._backoff = backoff
        self._on_change = on_change
        self._on_event = on_event
        self._text: list[str] = []
        self._pieces: deque[str] = deque()
        self._events: deque[StreamEvent] = deque()
        self._last_sent: dict[str, Any] | None = None
        # Whether the server has answered with this stream. Until then a lost request may never
        # have arrived, so it is sent again instead of followed.
        self._is_known = False
        self._is_kept = True  # whether the server can send the stream again
        self._turn = 0  # counts the streams that this object has read
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._attach_first = stream_id is not None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Stream {self.stream_id!r} {self.status} at {self.offset}>"

    @property
    def endpoint(self) -> str:
        return self._connection.endpoint

    @property
    def text(self) -> str:
        """All text that has arrived, from the given `offset` on."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    @property
    def loading(self) -> bool:
        """Whether more may arrive without a call."""
        return self.status in _LOADING

    @property
    def can_resume(self) -> bool:
        """Whether `resume` has something to continue."""
        return self.stream_id is not None and self._is_kept and self.status in _RESUMABLE

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

        A stream that is still being read is left to the server, as by `abort`. With
        `stream_id` the caller chooses the id; an id that is in use attaches to its stream.
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
        """Follow a stream that was begun elsewhere, from `offset` on.

        A stopped stream stays stopped.
        """
        await self._leave()
        self._reset(stream_id, offset)
        self._follow()

    async def resume(self) -> None:
        """Continue a stopped stream, or reach for a lost one.

        Does nothing in any other state.
        """
        if not self.can_resume:
            return
        await self._leave()
        stream_id = str(self.stream_id)
        if self._last_sent is not None and not self._is_known:  # perhaps it never arrived
            request = requests.to_send(self._last_sent, stream_id)
        else:
            request = requests.to_continue(stream_id, self.offset)
        self._start(request, Status.RECONNECTING)

    async def retry(self) -> str | None:
        """Send the last prompt again, as a new answer; its id, or None without a prompt."""
        if self._last_sent is None:
            return None
        return await self._begin(self._last_sent, secrets.token_urlsafe(16))

    async def stop(self) -> None:
        """Halt the model and keep what there is; returns when the stream has ended here.

        The request is repeated like a reconnect while the server is out of reach. Raises
        `StreamError` if it is refused or never arrives; the stream then goes on. If the
        server keeps nothing, closing the connection is what halts the model.
        """
        turn = self._turn
        while self._reads(turn) and not self._is_known:
            await self._next_change()  # the server cannot stop a stream it does not know
        is_lost = self._turn == turn and self.status is Status.DISCONNECTED
        if not self._reads(turn) and not is_lost:
            return
        if not self._is_kept:
            await self._leave()
            self._set(Status.STOPPED)
            return
        await self._deliver(requests.to_stop(str(self.stream_id)))
        if is_lost and self._turn == turn and self.status is Status.DISCONNECTED:
            self._follow()
        while self._reads(turn):
            await self._next_change()

    async def abort(self) -> None:
        """Let go of a stream that has not ended here; the server finishes it alone."""
        await self._leave()
        if self.loading or self.status is Status.DISCONNECTED:
            self._set(Status.IDLE)

    async def wait(self) -> Status:
        """Wait until nothing more arrives without a call; the status then. Never raises."""
        self._attach_if_given()
        while self.loading:
            await self._next_change()
        return self.status

    async def until_continued(self, *, interval: float = 3.0) -> bool:
        """Wait until a stream at rest moves again, and then read on; whether it does.

        A stopped stream moves when it is continued elsewhere, a disconnected stream when the
        server answers again. Costs a small request every `interval` seconds. It only
        looks: a stopped stream stays stopped. Returns False at once if the stream is not
        at rest, and as soon as the server refuses it.
        """
        turn = self._turn
        while self.can_resume and self._turn == turn:
            try:
                has_moved = await self._has_moved()
            except Cut:
                has_moved = False
            except StreamError:
                return False
            if has_moved and self.can_resume and self._turn == turn:
                self._follow()
                return True
            await asyncio.sleep(interval)
        return self._reads(turn)

    async def events(self) -> AsyncIterator[StreamEvent]:
        """The named events in order, each once; ends and raises as the iteration does."""
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
        await self._connection.aclose()

    async def __aenter__(self) -> Stream:
        self._attach_if_given()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _begin(self, body: dict[str, Any], stream_id: str) -> str:
        await self._leave()
        self._reset(stream_id, 0)
        self._last_sent = body
        self._is_known = False
        self._start(requests.to_send(body, stream_id), Status.STREAMING)
        return stream_id

    def _reset(self, stream_id: str, offset: int) -> None:
        self._turn += 1
        self.stream_id = stream_id
        self.offset = offset
        self._text = []
        self._pieces.clear()
        self._events.clear()
        self._attach_first = False
        self._is_kept = True

    def _attach_if_given(self) -> None:
        if self._attach_first:
            self._attach_first = False
            self._follow()

    def _follow(self) -> None:
        self._is_known = True
        request = requests.to_follow(str(self.stream_id), self.offset)
        self._start(request, Status.RECONNECTING)

    def _start(self, request: WireRequest, status: Status) -> None:
        if self._closed:
            raise RuntimeError("this Stream is closed")
        if self._task is not None:
            self._task.cancel()  # of a call at the same time, which awaited `_leave` too
        self._set(status)
        name = f"streamstores: read {self.stream_id}"
        self._task = asyncio.get_running_loop().create_task(self._read(request), name=name)

    async def _leave(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])  # `await task` would hide a cancellation of the caller

    async def _read(self, request: WireRequest) -> None:
        """The body of the one task that reads; records how the stream ended."""
        try:
            self._set(*await self._read_to_the_end(request))
        except StreamError as exc:
            is_lost = exc.code == "disconnected"
            self._set(Status.DISCONNECTED if is_lost else Status.ERROR, exc)
        except Exception as exc:
            error = StreamError(repr(exc), code="client")
            error.__cause__ = exc
            self._set(Status.ERROR, error)

    async def _read_to_the_end(self, request: WireRequest) -> _Ending:
        """Connect, and again after each cut, until the stream ends or the budget does."""
        budget = RetryBudget(self._retries, self._backoff)
        while True:
            try:
                return await self._read_once(request, budget)
            except Cut as cut:
                if not self._is_kept:
                    message = f"the rest is lost, because this server keeps nothing: {cut}"
                    raise StreamError(message, code="not_kept") from cut
                delay = budget.next_pause(cut)  # raises if no attempt is left
                self._set(Status.RECONNECTING)
                await asyncio.sleep(delay)
                # A Continue may have been carried out and then stopped elsewhere, so it is
                # repeated only if the server says that nothing happened.
                if self._is_known and not cut.nothing_happened:
                    request = requests.to_follow(str(self.stream_id), self.offset)

    async def _read_once(self, request: WireRequest, budget: RetryBudget) -> _Ending:
        """One connection to its `done`; how the stream ended. Raises `Cut`."""
        ending: _Ending = (Status.DONE, None)
        parser = EventParser()
        opening = self._connection.open(request, was_answered=self._is_known)
        async with opening as answer:
            self._is_known = True
            # A proxy may drop the header; the event `stream-id` then says the same.
            self._is_kept = "X-Stream-Id" in answer.response.headers
            self._wake()
            self._set(Status.STREAMING)
            silence = SILENT_PINGS * ping_seconds(answer.response)
            answer.expect_within(silence)
            async for chunk in answer.response.aiter_bytes():
                answer.expect_within(silence)
                for event in parser.feed(chunk):
                    if event.name == "stream-id":
                        self._is_kept = True
                        self.stream_id = event.data  # the server may choose another id
                        continue
                    budget.renew()  # `stream-id` alone is no progress
                    if event.name == "done":
                        return ending
                    ending = self._take(event) or ending
        raise Cut("the answer ended without done")

    def _take(self, event: ServerSentEvent) -> _Ending | None:
        """Take in one event; how the stream ended, if the event says so."""
        if event.name == "ping":
            return None
        if event.name == "stopped":
            return Status.STOPPED, None
        if event.name == "error" and event.id is None:
            return Status.ERROR, StreamError(event.data, code="stream_error")
        if self._is_kept:
            if event.id is None or not event.id.isdecimal() or int(event.id) <= self.offset:
                return None  # it has arrived before
            self.offset = int(event.id)
        self._take_content(event)
        return None

    def _take_content(self, event: ServerSentEvent) -> None:
        if event.name in ("", "text"):
            piece = text_of_json(event.data) if event.name else event.data
            self._text.append(piece)
            self._pieces.append(piece)
        else:
            named = StreamEvent(event.name, event.data, self.offset)
            self._events.append(named)
            call_safely(self._on_event, named)
        self._announce()

    async def _deliver(self, request: WireRequest) -> None:
        """A request whose answer is no stream, repeated as a reconnect is."""
        budget = RetryBudget(self._retries, self._backoff)
        while True:
            try:
                async with self._connection.open(request, "application/json"):
                    return
            except Cut as cut:
                await asyncio.sleep(budget.next_pause(cut))

    async def _has_moved(self) -> bool:
        """Whether there is something to read on a stream at rest. Raises `Cut`."""
        request = requests.to_ask_status(str(self.stream_id))
        async with self._connection.open(request, "application/json") as answer:
            await answer.response.aread()
        status = answer.response.json()
        is_at_rest = status["state"] == "stopped" and status["tail"] == self.offset
        return self.status is Status.DISCONNECTED or not is_at_rest

    async def _next(self, queue: deque[T]) -> T | None:
        """The next item of a queue, None at the end; raises if the stream failed."""
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
        call_safely(self._on_change, self)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _reads(self, turn: int) -> bool:
        return self.loading and self._turn == turn

    async def _next_change(self) -> None:
        await self._changed.wait()
