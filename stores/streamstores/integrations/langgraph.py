"""LangGraph's endpoint for runs, which `langgraph-sdk` resumes, on any store.

Written against `langgraph` 1 and `langgraph-sdk` 0.4. It needs the extra `http`. The protocol:
https://docs.langchain.com/langsmith/streaming
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, cast
from urllib.parse import quote

try:
    from starlette.responses import JSONResponse, Response
except ModuleNotFoundError as _missing_module:
    raise ImportError(
        f"streamstores.integrations.langgraph needs {_missing_module.name}: "
        'pip install "streamstores[http]"',
        name=_missing_module.name,
    ) from _missing_module

from streamstores._sse import encode_event
from streamstores.errors import StreamNotFound
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.exchange import Exchange
from streamstores.http.resumable import AnySource, ResumableStreams, ServerSentEvent
from streamstores.integrations._langgraph_requests import (
    config_of,
    given_of,
    modes_of_graph,
    run_of,
    strategy_of,
)
from streamstores.integrations._mounted_endpoint import Identify, MountedEndpoint
from streamstores.integrations._pointers import RUNNING, Pointers
from streamstores.integrations.sources import langgraph_events
from streamstores.runs.ownership import takeovers_of
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["LangGraphRuns"]

_PREFIX = "langgraph-run/"
_THREAD_PREFIX = "langgraph-thread/"
_RUN = "run"
_THREAD = "/threads/(?P<thread_id>[^/]+)"
_RUN_PATH = f"{_THREAD}/runs/(?P<run_id>[0-9a-f-]{{36}})"
_STATUS = {
    State.STREAMING: "running",
    State.STOPPED: "interrupted",
    State.DONE: "success",
    State.ERROR: "error",
}
_CLAIM_ATTEMPTS = 20


class _LostRun(Exception):
    """The process of a run has died, and no checkpoint says how to continue it."""


class LangGraphRuns(MountedEndpoint):
    """The runs of graphs as an ASGI application, which survive broken connections, restarts
    and dead processes.

        runs = LangGraphRuns(store, {"agent": graph})
        app = FastAPI(lifespan=runs.lifespan)
        app.mount("/", runs)

    `graphs` are compiled graphs by the `assistant_id` of requests, or a single one for all. The
    endpoints are those with which `langgraph-sdk` begins, joins, asks for and cancels a run.
    Its threads are those of the graph's checkpointer.

    If the process of a run dies, another one continues the run from its last checkpoint: the
    node that was under way runs again. A graph without a checkpointer, or whose checkpointer
    is lost with its process, ends in an event `error`.

    A thread has one run at a time. Another one is refused with 409, or stops it if the request
    says `multitask_strategy="interrupt"`. Requests for what is not offered are refused with
    422.

    - `identify(request)`, plain or async, returns the user that sent a request, or None to
      refuse it with 401. A user reaches only their own threads, also in the checkpointer, where
      the thread's id begins with the user. Without it, every client that knows the id of a
      thread can read it.
    - `max_body_bytes` bounds a request.

    The other options are those of `ResumableStreams`.
    """

    def __init__(
        self,
        store: StreamStore,
        graphs: Any,
        *,
        identify: Identify | None = None,
        max_body_bytes: int = 1_048_576,
        ttl: float | None = 86_400.0,
        describe_error: Callable[[Exception], str] | None = None,
        **options: Any,
    ) -> None:

        def describe(exc: Exception) -> str:
            if isinstance(exc, _LostRun):
                return str(exc)
            return "The graph failed." if describe_error is None else describe_error(exc)

        super().__init__(
            ResumableStreams(
                store,
                ttl=ttl,
                revive=self._revived,
                ending=_ending,
                describe_error=describe,
                **options,
            ),
            {
                ("POST", "/threads"): self._create_thread,
                ("POST", f"{_THREAD}/runs"): self._create,
                ("POST", f"{_THREAD}/runs/stream"): self._stream,
                ("GET", _RUN_PATH): self._get,
                ("GET", f"{_RUN_PATH}/stream"): self._join,
                ("POST", f"{_RUN_PATH}/cancel"): self._cancel,
            },
            identify=identify,
            max_body_bytes=max_body_bytes,
        )
        self._store = store
        is_single = not isinstance(graphs, Mapping)
        self._single: Any = graphs if is_single else None
        self._graphs: Mapping[str, Any] = {} if is_single else cast("Any", graphs)
        self._pointers = Pointers(store, ttl)

    # --- the endpoints

    async def _create_thread(self, exchange: Exchange, user: str) -> Response:
        """Give a thread an id. The checkpointer has it as soon as a run has begun."""
        body = await self._body(exchange)
        thread_id = str(body.get("thread_id") or uuid.uuid4())
        metadata: Any = body.get("metadata") or {}
        return JSONResponse(
            {"thread_id": thread_id, "metadata": metadata, "status": "idle", "values": None}
        )

    async def _create(self, exchange: Exchange, user: str, thread_id: str) -> Response:
        run_id = await self._begin(exchange, user, thread_id)
        return await self._get(exchange, user, thread_id, run_id)

    async def _stream(self, exchange: Exchange, user: str, thread_id: str) -> Response:
        run_id = await self._begin(exchange, user, thread_id)
        return await self.streams.replay(
            _stream_id(user, thread_id, run_id), headers=_locations(thread_id, run_id)
        )

    async def _get(
        self, exchange: Exchange, user: str, thread_id: str, run_id: str
    ) -> Response:
        """The run as it is now."""
        info = await self._store.info(_stream_id(user, thread_id, run_id))
        if info.state is State.STREAMING:
            self._watch(info)
        run = json.loads(info.attributes[_RUN])
        body = {
            "run_id": run_id,
            "thread_id": thread_id,
            "assistant_id": run["assistant_id"],
            "created_at": info.created_at.isoformat(),
            "updated_at": info.updated_at.isoformat(),
            "status": _STATUS[info.state],
            "metadata": run["metadata"],
            "multitask_strategy": "reject",
        }
        location = _locations(thread_id, run_id)["Content-Location"]
        return JSONResponse(body, headers={"Content-Location": location})

    async def _join(
        self, exchange: Exchange, user: str, thread_id: str, run_id: str
    ) -> Response:
        """The events after the one in `Last-Event-ID`, or all of them."""
        stream_id = _stream_id(user, thread_id, run_id)
        query = exchange.request().query_params
        if query.get("cancel_on_disconnect", "").lower() in ("1", "true"):
            raise HttpError(422, "unprocessable", "a run goes on without readers")
        modes = [mode for mode in query.getlist("stream_mode") if mode]
        if modes:
            run = json.loads((await self._store.info(stream_id)).attributes[_RUN])
            if set(modes) != set(run["stream_mode"]):
                message = "stream_mode is that of the run, or left out"
                raise HttpError(422, "unprocessable", message)
        last = exchange.headers.get("last-event-id", "")
        # LangGraph's own server takes -1 for the start.
        return await self.streams.replay(
            stream_id,
            offset=0 if last in ("", "-1") else last,
            repeat_ending=True,
            headers=_locations(thread_id, run_id),
        )

    async def _cancel(
        self, exchange: Exchange, user: str, thread_id: str, run_id: str
    ) -> Response:
        """Stop the graph, in whichever process it runs. Idempotent."""
        action = exchange.request().query_params.get("action", "interrupt")
        if action != "interrupt":
            raise HttpError(422, "unprocessable", "action is 'interrupt' here")
        await self.streams.stop(_stream_id(user, thread_id, run_id))
        return Response(status_code=204)

    def _refuse(self, error: HttpError) -> Response:
        headers = {"Cache-Control": "no-store", **error.headers}
        body = {"detail": str(error), "code": error.code}
        return JSONResponse(body, error.status, headers)

    # --- runs

    async def _begin(self, exchange: Exchange, user: str, thread_id: str) -> str:
        """Start a run, and return its id."""
        body = await self._body(exchange)
        run, given, strategy = run_of(body), given_of(body), strategy_of(body)
        self._graph(run)
        run_id = str(uuid.uuid4())
        stream_id = _stream_id(user, thread_id, run_id)
        await self._claim(f"{_THREAD_PREFIX}{user}/{thread_id}", stream_id, strategy)
        await self.streams.start(
            stream_id,
            self._events(stream_id, run, given, attempt=1),
            attributes={_RUN: json.dumps(run)},
        )
        return run_id

    async def _claim(self, pointer_id: str, stream_id: str, strategy: str) -> None:
        """Make the run the one of its thread. Raises `HttpError` 409."""
        for _ in range(_CLAIM_ATTEMPTS):
            pointer = await self._pointers.get(pointer_id)
            running = pointer.attributes[RUNNING]
            is_live = bool(running) and await self._pointers.is_live(running)
            if is_live and strategy == "reject":
                # Its process may have died: then the thread is free in a moment.
                self._watch(await self._store.info(running))
                raise HttpError(409, "conflict", "a run of this thread is under way")
            if await self._pointers.move(pointer, stream_id):
                if is_live:
                    with suppress(StreamNotFound):
                        await self.streams.stop(running)
                return
        raise HttpError(409, "conflict", "too many runs of this thread begin at once")

    def _graph(self, run: Mapping[str, Any]) -> Any:
        if self._single is not None:
            return self._single
        graph = self._graphs.get(run["assistant_id"])
        if graph is None:
            raise HttpError(404, "not_found", f"no assistant {run['assistant_id']!r}")
        return graph

    async def _events(
        self, stream_id: str, run: dict[str, Any], given: Any, *, attempt: int
    ) -> AsyncGenerator[ServerSentEvent, None]:
        """The events of a run, from its `metadata` on."""
        user, thread_id, run_id = _parts(stream_id)
        told = json.dumps({"run_id": run_id, "attempt": attempt})
        yield ServerSentEvent("metadata", told, None)
        events = langgraph_events(
            self._graph(run),
            given,
            config_of(run, user, thread_id, run_id),
            stream_mode=modes_of_graph(run["stream_mode"]),
            subgraphs=run["subgraphs"],
            **run["options"],
        )
        async with aclosing(events):
            async for event in events:
                yield event

    def _revived(self, info: StreamInfo) -> AnySource | None:
        return self._continued(info) if info.id.startswith(_PREFIX) else None

    async def _continued(self, info: StreamInfo) -> AsyncGenerator[ServerSentEvent, None]:
        """The rest of a run whose process has died, from its last checkpoint on."""
        run = json.loads(info.attributes[_RUN])
        # The run goes on at its newest checkpoint, not at the one where the client began it.
        run["config"]["configurable"].pop("checkpoint_id", None)
        if not await self._has_more(run, *_parts(info.id)):
            return
        attempt = takeovers_of(info) + 2
        events = self._events(info.id, run, None, attempt=attempt)
        async with aclosing(events):
            async for event in events:
                yield event

    async def _has_more(
        self, run: dict[str, Any], user: str, thread_id: str, run_id: str
    ) -> bool:
        """Whether the checkpoint of the run has a next step. Raises `_LostRun` if the run has
        no checkpoint."""
        graph = self._graph(run)
        if graph.checkpointer:
            state = await graph.aget_state(config_of(run, user, thread_id, run_id))
            metadata: dict[str, Any] = state.metadata or {}
            # An earlier run of the thread may have left the newest checkpoint.
            if metadata.get("run_id") == run_id:
                return bool(state.next)
        raise _LostRun("The process of this run ended, and it has no checkpoint.")


def _stream_id(user: str, thread_id: str, run_id: str) -> str:
    return f"{_PREFIX}{user}/{thread_id}/{run_id}"


def _parts(stream_id: str) -> tuple[str, str, str]:
    """The user, the thread and the run; only a user's name may have a slash."""
    rest, _, run_id = stream_id.removeprefix(_PREFIX).rpartition("/")
    user, _, thread_id = rest.rpartition("/")
    return user, thread_id, run_id


def _locations(thread_id: str, run_id: str) -> dict[str, str]:
    """Where the run is, and where a client joins it when it has lost its connection. Clients
    take both as paths below the address that they were given."""
    run = f"/threads/{quote(thread_id, safe='')}/runs/{run_id}"
    return {"Location": f"{run}/stream", "Content-Location": run}


def _ending(info: StreamInfo) -> bytes:
    _, _, run_id = _parts(info.id)
    if info.state is State.DONE:
        name, told = b"end", {"run_id": run_id, "status": "success"}
    elif info.state is State.ERROR:
        name, told = b"error", {"error": "RunFailed", "message": info.error or "Failed."}
    else:
        message = "The run was cancelled."
        name, told = b"error", {"error": "UserInterrupt", "message": message}
    return encode_event(json.dumps(told).encode(), name=name)
