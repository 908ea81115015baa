"""Sources that resume a background response of OpenAI itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from streamstores.http.resumable import ServerSentEvent
from streamstores.integrations._openai_events import ENDS, event_of
from streamstores.integrations._stored_events import last_record
from streamstores.store import StreamInfo, StreamStore

__all__ = ["background_response", "resumed_response"]

_MOST_SECONDS = 8.0
_RETRIED = frozenset({408, 409, 429})


async def background_response(
    client: Any, *, attempts: int = 6, pause: float = 0.5, **request: Any
) -> AsyncGenerator[ServerSentEvent, None]:
    """The events of a new background response, to its end.

    `client` is an `openai.AsyncOpenAI`, and `request` what its `responses.create` takes. If the
    connection breaks, the response is retrieved from the last event on, after `pause` seconds,
    then after twice as long, and so on up to 8. After `attempts` in a row without a new event
    the last error of `openai` is raised. The first request is not repeated.

    Closing this does not cancel the response at OpenAI, because another process may resume it:
    to stop it, call `client.responses.cancel`.
    """
    stream = await client.responses.create(**request, background=True, stream=True)
    events = _Resumption(client, attempts, pause)
    async for event in events.follow(stream):
        yield event


async def resumed_response(
    client: Any,
    store: StreamStore,
    info: StreamInfo,
    *,
    attempts: int = 6,
    pause: float = 0.5,
) -> AsyncGenerator[ServerSentEvent, None]:
    """The rest of a background response whose events up to here are in the stream `info`.

    To be used as

        ResumableStreams(store, revive=lambda info: resumed_response(client, store, info))

    with which any process goes on with what `background_response` has begun in another. The id
    of the response and the number of the last event are in the stream. Raises `ValueError` if
    the process died before the first event, so that there is no id, and otherwise as
    `background_response` does.
    """
    page = await store.read(info.id, 0, max_bytes=1)
    last = await last_record(store, info)
    if last is None:
        raise ValueError("the stream has no event, so the response's id is not known")
    last_event = event_of(last.data)
    if last_event["type"] in ENDS:
        return
    events = _Resumption(client, attempts, pause)
    events.response_id = event_of(page.records[0].data)["response"]["id"]
    events.last_number = last_event["sequence_number"]
    async for event in events.follow(None):
        yield event


class _Resumption:
    """A response that is read over one connection after another."""

    def __init__(self, client: Any, attempts: int, pause: float) -> None:
        self._client = client
        self._attempts = attempts
        self._pause = pause
        self.response_id: str | None = None
        self.last_number = -1
        self._failures = 0

    async def follow(self, stream: Any) -> AsyncGenerator[ServerSentEvent, None]:
        """The events of `stream`, or if it is None from the last number on, to the end."""
        while True:
            error: Exception | None = None
            try:
                stream = stream or await self._retrieve()
                async for event in stream:
                    if event.sequence_number <= self.last_number:
                        continue
                    self._note(event)
                    yield ServerSentEvent(event.type, event.to_json(indent=None), None)
                    if event.type in ENDS:
                        return
            except Exception as exc:
                if not _is_passing(exc) or self.response_id is None:
                    raise
                error = exc
            finally:
                if stream is not None:
                    await stream.close()
            stream = None
            await self._wait(error)

    def _note(self, event: Any) -> None:
        self._failures = 0
        self.last_number = event.sequence_number
        if self.response_id is None:
            self.response_id = event.response.id

    async def _retrieve(self) -> Any:
        # OpenAI counts from 0, and refuses to start after -1.
        after = {"starting_after": self.last_number} if self.last_number >= 0 else {}
        return await self._client.responses.retrieve(self.response_id, stream=True, **after)

    async def _wait(self, error: Exception | None) -> None:
        self._failures += 1
        if self._failures >= self._attempts:
            raise error or ConnectionError("the response ends again and again before its end")
        await asyncio.sleep(min(self._pause * 2 ** (self._failures - 1), _MOST_SECONDS))


def _is_passing(exc: Exception) -> bool:
    """Whether a later attempt may succeed: the connection broke, or the server is busy."""
    status = getattr(exc, "status_code", None)
    if status is not None:
        return status >= 500 or status in _RETRIED
    # By name, because older versions of `openai` let the errors of their HTTP client through,
    # and which client that is depends on the version.
    names = {kind.__name__ for kind in type(exc).__mro__}
    return bool(names & {"APIConnectionError", "TransportError"})
