"""Runs of the AG-UI protocol that survive reloads and dead processes, on any store.

For the AG-UI adapter of pydantic-ai and every other server that encodes AG-UI's events.
Written against the protocol's version 1.0, `@ag-ui/client` 1.0, TanStack's
`@tanstack/ai-client` 0.33 and pydantic-ai 2.68.
"""

from __future__ import annotations

import json
from typing import Any, Protocol
from urllib.parse import quote

try:
    from starlette.responses import JSONResponse, Response
except ModuleNotFoundError as _missing_module:
    raise ImportError(
        f"streamstores.integrations.ag_ui needs {_missing_module.name}: "
        'pip install "streamstores[http]"',
        name=_missing_module.name,
    ) from _missing_module

from streamstores._sse import encode_event
from streamstores.errors import InvalidRequest, StreamNotFound
from streamstores.http.resumable import AnySource, ResumableStreams, close_unread
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["AGUIRuns", "RunInput"]

_PREFIX = "ag-ui-run/"
_STOPPED = "The run was stopped."
_FAILED = "The run failed."


class RunInput(Protocol):
    """What names a run: AG-UI's `RunAgentInput`, which is `adapter.run_input`."""

    @property
    def thread_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...


class AGUIRuns:
    """The runs of agents, each kept and sent to every client that asks for it.

        runs = AGUIRuns(store)

        @app.post("/agent")
        async def run(request: Request, user: User):
            adapter = await AGUIAdapter.from_request(request, agent=agent)
            events = adapter.encode_stream(adapter.run_stream())
            return await runs.run(adapter.run_input, events, owner=user.id, request=request)

    The client chooses the id of a run. Its first POST starts the run, and any later POST with
    the same thread and run, from a reloaded page or another tab, is sent the same run from
    its `RUN_STARTED`, in whichever process. An abort of the client is a lost connection, and
    only `stop` ends the run. A client that repeats its POST with `Last-Event-ID` is sent the
    rest, and one that knows only the run joins it by GET, with `join`.

    A run that is stopped, whose process died, or whose source raised ends with a `RUN_ERROR`
    for all its clients, so that none takes it for complete.

    The runs of an `owner` can be reached under that owner alone. Without one, a client that
    knows a thread and a run can read it. The options are those of `ResumableStreams`.
    """

    def __init__(self, store: StreamStore, **options: Any) -> None:
        self.streams: ResumableStreams = ResumableStreams(store, ending=_ending, **options)

    async def run(
        self,
        run_input: RunInput,
        source: AnySource,
        *,
        owner: str = "",
        request: Any = None,
    ) -> Response:
        """Start the run and answer with it, or answer with the run if it exists.

        If `request`, of any framework, names an event in `Last-Event-ID`, its client has a part
        of the run: it is sent the rest, nothing is started, and 404 says that the run is gone.

        `source` yields AG-UI's events: encoded, as server-sent events, or as objects. Of racing
        calls one starts its source; the sources of the others are closed unread.

        Answers 400 if the ids cannot be such, 429 at `max_runs`, 503 without a store.
        """
        try:
            stream_id = _stream_id(owner, run_input.thread_id, run_input.run_id)
        except InvalidRequest as exc:
            await close_unread(source)
            return JSONResponse({"error": str(exc), "code": "invalid_request"}, 400)
        if request is not None and request.headers.get("Last-Event-ID"):
            await close_unread(source)
            return await self._replay(stream_id, request)
        return await self.streams.response(stream_id, source)

    async def join(
        self, thread_id: str, run_id: str, request: Any = None, *, owner: str = ""
    ) -> Response:
        """Answer with a run that exists, from where `request` says that its client left off.

        404 if there is no such run.
        """
        try:
            stream_id = _stream_id(owner, thread_id, run_id)
        except InvalidRequest as exc:
            return JSONResponse({"error": str(exc), "code": "invalid_request"}, 400)
        return await self._replay(stream_id, request)

    async def _replay(self, stream_id: str, request: Any) -> Response:
        # A client that has all events but no terminal one must not wait for it.
        return await self.streams.replay(stream_id, request, repeat_ending=True)

    async def stop(self, thread_id: str, run_id: str, *, owner: str = "") -> Response:
        """Stop this run, in whichever process it is, and no other one.

        Answers `{"stopped": true | false}`: false if the run has ended, or does not exist.
        """
        try:
            info = await self.streams.stop(_stream_id(owner, thread_id, run_id))
        except (StreamNotFound, InvalidRequest):
            return JSONResponse({"stopped": False})
        return JSONResponse({"stopped": info.state is State.STOPPED})

    async def aclose(self) -> None:
        """As `ResumableStreams.aclose`; its `lifespan` is `runs.streams.lifespan`."""
        await self.streams.aclose()


def _stream_id(owner: str, thread_id: Any, run_id: Any) -> str:
    """The stream of a run. Quoted, so that no ids of one owner make the stream of another."""
    for name, value in (("thread", thread_id), ("run", run_id)):
        if not isinstance(value, str) or not value:
            raise InvalidRequest(f"the id of a {name} is a text")
    try:
        parts = [quote(part, safe="", errors="strict") for part in (owner, thread_id, run_id)]
    except UnicodeEncodeError as exc:
        raise InvalidRequest("an id is text that UTF-8 can encode") from exc
    return _PREFIX + "/".join(parts)


def _ending(info: StreamInfo) -> bytes:
    if info.state is State.STOPPED:
        return _run_error(_STOPPED, "stopped")
    if info.state is State.ERROR:
        return _run_error(info.error or _FAILED, "failed")
    return b""


def _run_error(message: str, code: str) -> bytes:
    return encode_event(
        json.dumps({"type": "RUN_ERROR", "message": message, "code": code}).encode()
    )
