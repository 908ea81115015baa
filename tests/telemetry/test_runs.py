"""Spans and metrics of runs, takeovers and requests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from opentelemetry.trace import SpanKind, StatusCode

from streamstores import Limits, MemoryStreamStore, State, StreamExists, StreamStore
from streamstores.http import ResumableStreams, StreamRequest, continues, create_stream_handler
from streamstores.runs import Runs
from tests.http.conftest import Chat
from tests.http.serving import serving
from tests.telemetry.recording import Recording
from tests.unit.scripted_runs import Reviving, Script, abandon, read_to_end, until
from tests.wrapping import Delegating

HEARTBEAT = 0.1
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def ids_of(traceparent: str) -> tuple[int, int]:
    _, trace_id, span_id, _ = traceparent.split("-")
    return int(trace_id, 16), int(span_id, 16)


def links_of(span: Any) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


@pytest.fixture
async def store(recording: Recording) -> AsyncIterator[StreamStore]:
    # Through a wrapper, which is how telemetry meets most stores of applications.
    async with Delegating(recording.instrument(MemoryStreamStore())) as store:
        yield store


@pytest.fixture
async def runs_on(store: StreamStore) -> AsyncIterator[Callable[..., Runs]]:
    made: list[Runs] = []

    def make(**options: Any) -> Runs:
        made.append(Runs(store, **{"heartbeat": HEARTBEAT, **options}))
        return made[-1]

    yield make
    for runs in made:
        await runs.aclose()


async def gone(runs: Runs, stream_id: str) -> None:
    while runs.is_running(stream_id):
        await asyncio.sleep(0.01)


async def test_a_run_is_a_span_below_the_start_that_its_stream_names(
    recording: Recording, store: StreamStore, runs_on: Callable[..., Runs]
) -> None:
    script, runs = Script().say(b"a"), runs_on()
    with recording.tracers.get_tracer("test").start_as_current_span("caller") as caller:
        info = await runs.start("s", script.source())
    assert recording.value("runs.active") == 1
    script.say(None)
    await gone(runs, "s")
    start, run = recording.span("streamstores start"), recording.span("streamstores run")
    assert start.parent is not None
    assert start.parent.span_id == caller.get_span_context().span_id
    assert run.parent is not None
    assert run.parent.span_id == start.context.span_id
    assert ids_of(info.attributes["traceparent"]) == (
        start.context.trace_id,
        start.context.span_id,
    )
    assert run.attributes == {"streamstores.outcome": "done"}
    assert recording.value("runs.active") == 0
    assert recording.value("run.duration", streamstores_outcome="done") == 1


async def test_spans_of_a_source_are_below_its_run(
    recording: Recording, store: StreamStore, runs_on: Callable[..., Runs]
) -> None:
    async def source() -> AsyncIterator[bytes]:
        with recording.tracers.get_tracer("test").start_as_current_span("model"):
            pass
        yield b"x"

    runs = runs_on()
    await runs.start("s", source())
    await gone(runs, "s")
    model, run = recording.span("model"), recording.span("streamstores run")
    assert model.parent is not None
    assert model.parent.span_id == run.context.span_id


async def test_a_source_that_fails_makes_its_run_an_error_without_the_text(
    recording: Recording, store: StreamStore, runs_on: Callable[..., Runs]
) -> None:
    runs = runs_on()
    await runs.start("s", Script().say(b"a", KeyError("a secret prompt")).source())
    await gone(runs, "s")
    run = recording.span("streamstores run")
    assert run.attributes == {"streamstores.outcome": "error", "error.type": "KeyError"}
    assert run.status.status_code is StatusCode.ERROR
    assert "secret" not in run.to_json()


async def test_a_start_that_finds_its_stream_started_is_no_run_and_no_error(
    recording: Recording, store: StreamStore, runs_on: Callable[..., Runs]
) -> None:
    runs = runs_on()
    await store.create("s")
    with pytest.raises(StreamExists):
        await runs.start("s", Script().source())
    start = recording.span("streamstores start")
    assert start.attributes == {"error.type": "StreamExists"}
    assert start.status.status_code is StatusCode.UNSET
    assert recording.spans("streamstores run") == []


async def test_a_takeover_is_linked_to_the_start_and_its_run_is_below_it(
    recording: Recording, store: StreamStore, runs_on: Callable[..., Runs]
) -> None:
    reviving, dying = Reviving(), runs_on()
    await dying.start("s", Script().say(b"a").source())
    await until(store, "s", lambda info: info.tail == 1)
    await abandon(dying, "s")
    reviving.script("s").say(b"b", None)
    others = [runs_on(revive=reviving) for _ in range(3)]
    read = await asyncio.gather(*(read_to_end(runs, "s") for runs in others * 2))
    assert read == [(b"ab", State.DONE)] * 6
    for runs in others:
        await gone(runs, "s")
    began = recording.span("streamstores start").context
    won = [
        span
        for span in recording.spans("streamstores takeover")
        if span.attributes["streamstores.outcome"] == "continued"
    ]
    [takeover] = won
    assert links_of(takeover) == [(began.trace_id, began.span_id)]
    assert takeover.attributes["streamstores.takeover.reason"] == "died"
    lost, run = recording.spans("streamstores run")
    assert lost.attributes == {"streamstores.outcome": "lost"}
    assert run.parent is not None
    assert run.parent.span_id == takeover.context.span_id
    assert links_of(run) == [(began.trace_id, began.span_id)]
    died = {"streamstores_takeover_reason": "died"}
    assert recording.value("takeovers", streamstores_outcome="continued", **died) == 1
    # Each silence once, however many followers wait: the first, and perhaps those of followers
    # that began to wait after it.
    assert 1 <= recording.value("producers.lost", streamstores_store="memory") <= 6


@pytest.mark.parametrize(
    ("end", "outcome"), [("stop", "stopped"), ("aclose", "stopped"), ("delete", "lost")]
)
async def test_a_run_tells_how_it_ended(
    recording: Recording,
    store: StreamStore,
    runs_on: Callable[..., Runs],
    end: str,
    outcome: str,
) -> None:
    runs = runs_on(pause_for=0)
    await runs.start("s", Script().say(b"a").source())
    await until(store, "s", lambda info: info.tail == 1)
    if end == "stop":
        await runs_on().stop("s")
    elif end == "aclose":
        await runs.aclose()
    else:
        await store.delete("s")
    await gone(runs, "s")
    attributes = recording.span("streamstores run").attributes
    assert attributes == {"streamstores.outcome": outcome}


async def test_a_run_that_is_handed_over_or_taken_over_says_so(
    recording: Recording, store: StreamStore, runs_on: Callable[..., Runs]
) -> None:
    reviving = Reviving()
    for stream_id in ("a", "b"):
        reviving.script(stream_id).say(b"x")
    leaving = runs_on(revive=reviving)
    await leaving.start("a", Script().say(b"x").source())
    await leaving.aclose()
    [run] = recording.spans("streamstores run")
    assert run.attributes == {"streamstores.outcome": "handed_over"}
    staying, other = runs_on(), runs_on(revive=reviving)
    await staying.start("b", Script().say(b"x").source())
    info = await until(store, "b", lambda info: info.tail == 1)
    await other.rescue(info)
    await gone(staying, "b")
    outcomes = [span.attributes for span in recording.spans("streamstores run")]
    assert {"streamstores.outcome": "taken_over"} in outcomes


@pytest.mark.parametrize("room", [0, 70])
async def test_the_link_is_left_out_if_the_attributes_have_no_room_for_it(
    recording: Recording, room: int
) -> None:
    limits = Limits(attributes_bytes=1_000)
    given = {"mine": "x" * (1_000 - 4 - 40 - room)}
    async with recording.instrument(MemoryStreamStore(limits=limits)) as store:
        runs = Runs(store)
        info = await runs.start("s", Script().say(None).source(), attributes=given)
        assert "traceparent" not in info.attributes
        assert info.attributes["mine"] == given["mine"]
        await runs.aclose()


async def test_an_attribute_of_the_application_is_kept(
    recording: Recording, runs_on: Callable[..., Runs]
) -> None:
    given = {"traceparent": "mine"}
    info = await runs_on().start("s", Script().say(None).source(), attributes=given)
    assert info.attributes["traceparent"] == "mine"


async def test_a_malformed_traceparent_is_no_link(
    recording: Recording, store: StreamStore, runs_on: Callable[..., Runs]
) -> None:
    attributes = {"owner": "", "traceparent": "00-zz-é-01"}
    info = await store.create("s", attributes=attributes)
    await runs_on(revive=Reviving()).rescue(info)
    assert recording.span("streamstores takeover").links == ()


# --- requests


@continues
async def parrot(request: StreamRequest) -> AsyncIterator[str]:
    yield request.prompt


async def test_requests_are_spans_that_continue_the_clients_trace_and_name_no_id(
    recording: Recording, store: StreamStore
) -> None:
    handler = create_stream_handler(parrot, store)
    async with handler, serving(handler, lifespan="off") as url, httpx.AsyncClient() as client:
        chat = Chat(handler, url, client)
        headers = {"traceparent": CALLER}
        body = {"prompt": "a secret prompt", "id": "a-secret-id"}
        async with chat.open("POST", "/stream", json=body, headers=headers) as events:
            await events.rest()
        async with chat.follow("a-secret-id") as events:
            await events.rest()
        assert (await chat.get("/nowhere")).status_code == 404
    post = recording.span("POST /stream")
    assert post.kind is SpanKind.SERVER
    assert post.parent is not None
    assert (post.context.trace_id, post.parent.span_id) == ids_of(CALLER)
    start = recording.span("streamstores start")
    assert start.parent is not None
    assert start.parent.span_id == post.context.span_id
    follow = recording.span("GET /stream/resume")
    assert links_of(follow) == [(start.context.trace_id, start.context.span_id)]
    assert follow.attributes == {
        "http.request.method": "GET",
        "http.route": "/stream/resume",
        "http.response.status_code": 200,
    }
    assert recording.value("http.requests", http_response_status_code=404) == 1
    told = str([*recording.points().items(), *(s.to_json() for s in recording.all_spans())])
    assert "secret" not in told


async def test_ids_are_in_spans_if_the_application_wants_them(recording: Recording) -> None:
    store = recording.instrument(MemoryStreamStore(), stream_ids=True)
    async with store:
        runs = Runs(store)
        await runs.start("s", Script().say(None).source())
        await gone(runs, "s")
    for name in ("streamstores start", "streamstores run"):
        assert recording.span(name).attributes["streamstores.stream.id"] == "s"  # type: ignore[index]


async def test_within_an_instrumented_framework_a_request_is_a_child_of_its_span(
    recording: Recording, store: StreamStore
) -> None:
    handler = create_stream_handler(parrot, store)
    tracer = recording.tracers.get_tracer("framework")

    async def framework(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span("of the framework", kind=SpanKind.SERVER):
            await handler(scope, receive, send)

    async with handler, serving(framework, lifespan="off") as url:
        async with httpx.AsyncClient() as client:
            await client.get(f"{url}/stream/status?id=x")
    span, parent = recording.span("GET /stream/status"), recording.span("of the framework")
    assert span.kind is SpanKind.INTERNAL
    assert span.parent is not None
    assert span.parent.span_id == parent.context.span_id


async def test_responses_of_any_endpoint_are_linked_to_their_streams(
    recording: Recording, store: StreamStore
) -> None:
    streams = ResumableStreams(store, watch_signals=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = await streams.response("s", Script().say(b"data: x\n\n", None).source())
        await response(scope, receive, send)

    async with streams, serving(app, lifespan="off") as url, httpx.AsyncClient() as client:
        assert (await client.get(url)).status_code == 200
    start = recording.span("streamstores start")
    assert links_of(recording.span("GET")) == [(start.context.trace_id, start.context.span_id)]


def test_without_the_api_only_the_integration_is_missing_and_names_its_extra() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import streamstores, streamstores.http, streamstores.runs\n"
        "try:\n    import streamstores.integrations.opentelemetry\n"
        "except ImportError as exc:\n    print(exc)"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 'pip install "streamstores[otel]"' in run.stdout, run.stderr
