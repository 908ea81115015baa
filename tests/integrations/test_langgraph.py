"""LangGraph's endpoint for runs, asked by `langgraph-sdk`."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client
from langgraph_sdk.errors import (
    AuthenticationError,
    BadRequestError,
    ConflictError,
    NotFoundError,
    UnprocessableEntityError,
)
from starlette.applications import Starlette
from starlette.routing import Mount

from streamstores import MemoryStreamStore, StreamStore
from streamstores.integrations.langgraph import LangGraphRuns
from tests.http.cutting_proxy import cutting_proxy
from tests.http.serving import serving

pytestmark = pytest.mark.long

APP = "tests.integrations.langgraph_app:app"
MODES = ["custom", "values"]


@pytest.fixture
async def ask():
    """Gives a client of a process, or of a URL."""
    async with AsyncExitStack() as stack:

        def ask(process, user="alice"):
            url = getattr(process, "url", process)
            client = get_client(url=f"{url}/graphs", api_key=user)
            stack.push_async_callback(client.aclose)
            return client

        yield ask


def begin(client, prompt, *, thread="t", graph="agent", **fields):
    given = None if prompt is None else {"prompt": prompt}
    fields = {"input": given, "stream_mode": MODES, **fields}
    return client.runs.stream(thread, graph, **fields)


async def create(client, prompt, *, thread="t", graph="agent", **fields):
    given = {"input": {"prompt": prompt}, "stream_mode": MODES}
    return (await client.runs.create(thread, graph, **given, **fields))["run_id"]


async def read(parts, *, until=None) -> list:
    """The parts to the end, or until `until` words have come."""
    found = []
    async for part in parts:
        found.append(part)
        if until is not None and len(words(found)) >= until:
            await parts.aclose()
            break
    return found


def words(parts) -> list[int]:
    return [part.data["word"] for part in parts if part.event == "custom"]


def run_id_of(parts) -> str:
    return parts[0].data["run_id"]


async def test_a_run_streams_its_modes_and_ends(start, ask):
    client = ask(await start(APP))
    thread = await client.threads.create()
    created = []
    parts = await read(
        begin(client, "3 0", thread=thread["thread_id"], on_run_created=created.append)
    )
    assert [part.event for part in parts] == [
        "metadata",
        "values",
        "values",
        *["custom"] * 3,
        "values",
        "end",
    ]
    assert parts[-2].data["text"] == "said 3"
    run = await client.runs.get(thread["thread_id"], run_id_of(parts))
    assert (run["status"], run["assistant_id"]) == ("success", "agent")
    assert created == [{"run_id": run["run_id"], "thread_id": thread["thread_id"]}]


async def test_the_client_resumes_by_itself_after_every_cut(start, ask, calls):
    process = await start(APP)
    async with cutting_proxy(process.url) as (proxy, url):
        proxy.answer_bytes = 6_000
        parts = await read(begin(ask(url), "300 0.002"))
    assert proxy.connections > 2
    assert words(parts) == list(range(300))
    assert [part.event for part in parts][-2:] == ["values", "end"]
    assert len({part.id for part in parts[:-1]}) == len(parts) - 1
    assert calls() == 1


async def test_joins_late_twice_and_in_the_middle_are_complete(start, ask, calls):
    process, other = await start(APP), await start(APP)
    begun = await read(begin(ask(process), "100 0.01"), until=5)
    run_id = run_id_of(begun)
    clients = [ask(process), ask(other), ask(other)]
    late, again, rest = await asyncio.gather(
        read(clients[0].runs.join_stream("t", run_id)),
        read(clients[1].runs.join_stream("t", run_id, last_event_id="-1", stream_mode=MODES)),
        read(clients[2].runs.join_stream("t", run_id, last_event_id=begun[-1].id)),
    )
    assert late == again == begun + rest
    assert words(late) == list(range(100))
    assert late[-1].event == "end"
    assert calls() == 1
    # After the end: all of it, and nothing but the end.
    assert await read(clients[1].runs.join_stream("t", run_id)) == late
    last = late[-2].id
    after = await read(clients[1].runs.join_stream("t", run_id, last_event_id=last))
    assert [part.event for part in after] == ["end"]


async def test_another_process_continues_the_run_of_a_killed_one(start, ask, calls):
    process, other = await start(APP), await start(APP)
    begun = await read(begin(ask(process), "100 0.03", graph="kept"), until=5)
    reading = asyncio.ensure_future(
        read(ask(other).runs.join_stream("t", run_id_of(begun), last_event_id=begun[-1].id))
    )
    await asyncio.sleep(0)
    await process.kill()
    parts = begun + await asyncio.wait_for(reading, 90)
    attempts = [part.data["attempt"] for part in parts if part.event == "metadata"]
    assert attempts == [1, 2]
    # The node that was under way runs again, and those before it do not.
    assert calls() == 1
    again = [part.event for part in parts].index("metadata", 1)
    assert words(parts[again:]) == list(range(100))
    assert parts[-2].data == {
        "prompt": "100 0.03",
        "plan": "to say 100 0.03",
        "text": "said 100",
    }
    assert parts[-1].event == "end"


@pytest.mark.parametrize("graph", ["plain", "agent"])
async def test_a_run_that_cannot_be_continued_ends_in_an_error(start, ask, graph):
    process, other = await start(APP), await start(APP)
    begun = await read(begin(ask(process), "100000 0.01", graph=graph), until=5)
    run_id, client = run_id_of(begun), ask(other)
    await process.kill()
    # No client reads it: to ask for the run, or for another one, is enough.
    while (await client.runs.get("t", run_id))["status"] == "running":
        await asyncio.sleep(0.1)
    parts = await read(client.runs.join_stream("t", run_id))
    assert parts[-1].event == "error"
    assert "process" in parts[-1].data["message"]
    assert words(await read(begin(client, "3 0"))) == [0, 1, 2]


async def test_a_cancel_stops_the_graph_in_whichever_process_it_runs(start, ask):
    process, other = await start(APP), await start(APP)
    run_id = await create(ask(process), "100000 0.01")
    reading = asyncio.ensure_future(read(ask(process).runs.join_stream("t", run_id)))
    await ask(other).runs.cancel("t", run_id)
    parts = await asyncio.wait_for(reading, 60)
    assert (parts[-1].event, parts[-1].data["error"]) == ("error", "UserInterrupt")
    await ask(other).runs.cancel("t", run_id, wait=True)
    assert (await ask(other).runs.get("t", run_id))["status"] == "interrupted"
    # A cancel that arrives late does not hit the next run.
    following = await create(ask(process), "50 0.01")
    await ask(other).runs.cancel("t", run_id)
    assert words(await read(ask(other).runs.join_stream("t", following))) == list(range(50))


async def test_a_thread_has_one_run_at_a_time(start, ask, calls):
    processes = [await start(APP) for _ in range(2)]
    clients = [ask(process) for process in processes * 2]
    tries = [create(client, "100000 0.01") for client in clients]
    results = await asyncio.gather(*tries, return_exceptions=True)
    first = [each for each in results if isinstance(each, str)]
    assert len(first) == 1
    assert all(isinstance(each, ConflictError) for each in results if each not in first)
    reading = asyncio.ensure_future(read(clients[0].runs.join_stream("t", first[0])))
    second = await read(begin(clients[1], "3 0", multitask_strategy="interrupt"))
    assert words(second) == [0, 1, 2]
    assert (await asyncio.wait_for(reading, 60))[-1].event == "error"
    other = await read(begin(clients[1], "4 0", thread="another"))
    assert words(other) == [0, 1, 2, 3]
    assert calls() == 3


async def test_a_graph_that_waits_for_a_human_goes_on_with_a_command(start, ask):
    client = ask(await start(APP))
    asked = await read(begin(client, "ask"))
    assert asked[-2].data["__interrupt__"][0]["value"] == "what?"
    parts = await read(begin(client, None, command={"resume": "that"}))
    assert parts[-2].data["text"] == "that"


async def test_no_user_reaches_the_thread_of_another(start, ask):
    process = await start(APP)
    await read(begin(ask(process), "2 0"))
    parts = await read(begin(ask(process), "100 0.01"), until=3)
    run_id, bob = run_id_of(parts), ask(process, "bob")
    for call in (bob.runs.get("t", run_id), bob.runs.cancel("t", run_id)):
        with pytest.raises(NotFoundError):
            await call
    with pytest.raises(NotFoundError):
        await read(bob.runs.join_stream("t", run_id, last_event_id=parts[-1].id))
    with pytest.raises(NotFoundError):
        await read(ask(process).runs.join_stream("another", run_id))
    with pytest.raises(AuthenticationError):
        await ask(process, "mallory").runs.get("t", run_id)
    # The same thread's id, and one that another user's begins with, are other threads.
    config = {"configurable": {"thread_id": "alice/t", "run_id": run_id}}
    own = await read(begin(bob, "1 0", config=config))
    assert own[1].data == {"prompt": "1 0"}, "nothing of the checkpoint of alice"
    assert (await ask(process).runs.get("t", run_id))["status"] in ("running", "success")


async def test_a_foreign_or_broken_event_id_is_refused(start, ask):
    client = ask(await start(APP))
    parts = await read(begin(client, "3 0"))
    for guess in (str(int(parts[2].id) - 1), "x", "9" * 30, "1-0"):
        with pytest.raises(BadRequestError):
            await read(client.runs.join_stream("t", run_id_of(parts), last_event_id=guess))


async def test_what_is_not_offered_is_refused(start, ask):
    client = ask(await start(APP))
    for fields in (
        {"stream_mode": "events"},
        {"stream_mode": ["values", 5]},
        {"stream_mode": [["values"]]},
        {"webhook": "http://127.0.0.1:1"},
        {"after_seconds": 5},
        {"on_disconnect": "cancel"},
        {"multitask_strategy": "enqueue"},
        {"checkpoint_id": "x"},
        {"config": {"callbacks": ["x"]}},
        {"config": {"configurable": 5}},
        {"command": {"unknown": 1}},
    ):
        with pytest.raises(UnprocessableEntityError):
            await read(begin(client, "1 0", **fields))
    with pytest.raises(NotFoundError, match="no assistant"):
        await read(begin(client, "1 0", graph="none"))
    run_id = await create(client, "1 0")
    with pytest.raises(UnprocessableEntityError):
        await client.runs.cancel("t", run_id, action="rollback")
    for fields in ({"cancel_on_disconnect": True}, {"stream_mode": "updates"}):
        with pytest.raises(UnprocessableEntityError):
            await read(client.runs.join_stream("t", run_id, **fields))


async def test_a_graph_that_fails_ends_in_an_error_without_its_secrets(start, ask):
    client = ask(await start(APP))
    for prompt in ("raise", "object"):
        parts = await read(begin(client, prompt))
        assert parts[-1].event == "error"
        assert "secret" not in str(parts[-1].data)
        assert (await client.runs.get("t", run_id_of(parts)))["status"] == "error"


async def test_a_bad_request_is_refused(start):
    process = await start(APP)
    headers = {"x-api-key": "alice"}
    path = f"{process.url}/graphs/threads/t/runs/stream"
    for content, status in ((b"{", 400), (b"[]", 400), (b"{}", 422), (b"x" * 2_000_000, 413)):
        answer = await process.client.post(path, content=content, headers=headers)
        assert (answer.status_code, "detail" in answer.json()) == (status, True)
    large = {"assistant_id": "agent", "config": {"configurable": {"x": "y" * 20_000}}}
    answer = await process.client.post(path, json=large, headers=headers)
    assert answer.status_code == 413
    assert (await process.client.get(path, headers=headers)).status_code == 405


async def speak(state: dict) -> dict:
    for number in range(state["count"]):
        get_stream_writer()({"word": number})
        await asyncio.sleep(0.002)
    return state


def application(store: StreamStore) -> Starlette:
    """A process with a single graph that is not kept."""
    builder = StateGraph(dict)
    builder.add_node("speak", speak)
    builder.add_edge(START, "speak")
    runs = LangGraphRuns(store, builder.compile())
    return Starlette(routes=[Mount("/graphs", runs)], lifespan=runs.lifespan)


async def test_a_run_that_expired_while_its_client_was_away_is_not_found(ask):
    store = MemoryStreamStore()
    async with serving(application(store)) as url:
        client = ask(url)
        begun = await read(client.runs.stream("t", "any", input={"count": 1}))
        for each in [info.id async for info in store.list()]:
            await store.delete(each)
        for last in (None, begun[1].id):
            with pytest.raises(NotFoundError):
                await read(client.runs.join_stream("t", run_id_of(begun), last_event_id=last))
        with pytest.raises(NotFoundError):
            await client.runs.get("t", run_id_of(begun))


async def test_on_memory_a_single_graph_is_joined_after_cuts_late_and_cancelled(ask):
    app = application(MemoryStreamStore())
    async with serving(app) as url, cutting_proxy(url) as (proxy, proxied):
        proxy.answer_bytes = 6_000
        given = {"input": {"count": 300}, "stream_mode": "custom"}
        parts = await read(ask(proxied).runs.stream("t", "any", **given))
        assert proxy.connections > 2
        assert words(parts) == list(range(300))
        assert await read(ask(url).runs.join_stream("t", run_id_of(parts))) == parts
        endless = {"input": {"count": 100_000}, "stream_mode": "custom"}
        begun = await read(ask(url).runs.stream("t", "any", **endless), until=3)
        reading = asyncio.ensure_future(read(ask(url).runs.join_stream("t", run_id_of(begun))))
        await ask(url).runs.cancel("t", run_id_of(begun))
        whole = await asyncio.wait_for(reading, 60)
        assert whole[-1].data["error"] == "UserInterrupt"
        assert whole[: len(begun)] == begun
