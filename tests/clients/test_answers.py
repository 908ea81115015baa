"""What the Python client does with an answer that is not the stream it asked for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamstores._client import connection, retries
from streamstores._client.answers import Cut, retry_after_seconds
from streamstores._client.retries import RetryBudget
from streamstores.client import Status, Stream, StreamError
from tests.clients.waiting import until
from tests.http.scripted_server import DONE, STOPPED, Exchange, ScriptedServer, event

TABLE = json.loads((Path(__file__).parents[1] / "data" / "answers.json").read_text())
CASES = [
    pytest.param({**row, "answer": answer}, id=f"{row['request']}-{answer}")
    for row in TABLE["rows"]
    for answer in row["answers"]
]


async def reach(name: str, stream: Stream, server: ScriptedServer) -> Exchange:
    """Bring the client to the point where it makes the request of that name."""
    if name == "follow":
        await stream.attach("stored")
        return await server.next()
    await stream.send("hello")
    exchange = await server.next()
    if name == "send":
        return exchange
    await exchange.open(event("", "one", 3))
    await until(stream, lambda: stream.offset == 3)
    if name == "reconnect":
        exchange.cut()
    elif name == "resume":
        await exchange.send(STOPPED)
        await stream.wait()
        await stream.resume()
    return await server.next() if name != "stop" else exchange


async def error_of(stream: Stream) -> StreamError:
    assert await stream.wait() is Status.ERROR
    assert stream.error is not None
    return stream.error


@pytest.mark.parametrize("row", CASES)
async def test_an_answer_is_taken_as_the_table_says(
    stream: Stream, server: ScriptedServer, row: dict[str, Any]
) -> None:
    exchange = await reach(row["request"], stream, server)
    stopping = asyncio.create_task(stream.stop()) if row["request"] == "stop" else None
    if stopping is not None:
        exchange = await server.next()
    await exchange.give(row["answer"])
    if row["then"] == "error":
        error = await (error_of(stream) if stopping is None else refusal_of(stopping))
        assert error.code == row.get("error", f"code_{row['answer']}")
        assert error.forgets_id is row["forgets"] or stopping is not None
        assert stream.loading is (stopping is not None)
    else:
        assert (await server.next()).request.label == row["then"]
        if stopping is not None:
            stopping.cancel()


async def refusal_of(stopping: asyncio.Task[None]) -> StreamError:
    with pytest.raises(StreamError) as raised:
        await stopping
    return raised.value


async def test_a_body_that_cannot_be_decoded_is_tried_again(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    await (await server.next()).answer(503, "not gzip", Content_Encoding="gzip")
    garbled = await server.next()
    await garbled.begin(X_Stream_Id="x", Content_Encoding="gzip")
    await garbled.send(b"not gzip")
    await (await server.next()).open(DONE)
    assert await stream.wait() is Status.DONE


@pytest.mark.parametrize("data", ["7", "null", '"unfinished'])
async def test_text_that_is_not_a_json_string_is_a_bad_answer(
    stream: Stream, server: ScriptedServer, data: str
) -> None:
    await stream.send("hello")
    await (await server.next()).open(event("text", data, 3), DONE)
    assert (await error_of(stream)).code == "bad_answer"


async def test_an_httpx2_client_reconnects_as_one_of_httpx_does(server: ScriptedServer) -> None:
    httpx2 = pytest.importorskip("httpx2", reason="httpx2 is not installed")
    async with httpx2.AsyncClient() as client:
        async with Stream(server.endpoint, client=client, backoff=0.001) as stream:
            await stream.send("hello")
            first = await server.next()
            await first.open(event("", "one", 3))
            await until(stream, lambda: stream.offset == 3)
            first.cut()
            (await server.next()).cut()
            await (await server.next()).give("loop")
            await (await server.next()).open(event("", "two", 6), DONE)
            assert await stream.wait() is Status.DONE
            assert stream.text == "onetwo"


async def test_an_answer_that_is_not_kept_arrives(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    pieces = event("", "one "), event("", "two"), event("text", json.dumps("\r"))
    await (await server.next()).open_unkept(*pieces, event("usage", "{}"), DONE)
    assert [piece async for piece in stream] == ["one ", "two", "\r"]
    assert [each.name async for each in stream.events()] == ["usage"]
    assert (stream.status, stream.text) == (Status.DONE, "one two\r")


async def test_an_answer_that_is_not_kept_is_an_error_after_a_cut(
    stream: Stream, server: ScriptedServer
) -> None:
    await stream.send("hello")
    exchange = await server.next()
    await exchange.open_unkept(event("", "one"))
    await until(stream, lambda: stream.text == "one")
    exchange.cut()
    error = await error_of(stream)
    assert error.code == "not_kept"
    assert (stream.text, stream.can_resume) == ("one", False)
    assert len(server.requests) == 1


@pytest.mark.parametrize("case", TABLE["retry_after"], ids=lambda case: str(case["header"]))
def test_retry_after_is_honoured_for_a_minute_at_most(case: dict[str, Any]) -> None:
    assert retry_after_seconds(case["header"]) == case["seconds"]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
async def test_an_invalid_ping_interval_is_ignored(
    stream: Stream, server: ScriptedServer, value: str
) -> None:
    await stream.send("hello")
    exchange = await server.next()
    await exchange.begin(X_Stream_Id="x", X_Stream_Ping=value)
    await exchange.send(event("stream-id", "x"), event("", "one", 3))
    await until(stream, lambda: stream.offset == 3)
    await exchange.send(DONE)
    assert await stream.wait() is Status.DONE
    assert len(server.requests) == 1


async def test_retry_after_prolongs_the_pause(
    stream: Stream, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def next_pause(self: RetryBudget, cut: Cut) -> float:
        asked.append(cut.retry_after)
        return 0.0

    monkeypatch.setattr(RetryBudget, "next_pause", next_pause)
    await stream.send("hello")
    await (await server.next()).refuse(429, "too_many_streams", Retry_After=7)
    await (await server.next()).open(DONE)
    assert await stream.wait() is Status.DONE
    assert asked == [7.0]


def test_pauses_double_up_to_the_longest_and_half_of_each_is_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries.random, "uniform", lambda low, high: (low, high)[1])
    budget = RetryBudget(7, TABLE["first_pause_seconds"])
    pauses = [budget.next_pause(Cut("lost")) for _ in range(7)]
    assert pauses == [1, 2, 4, 8, 16, 30, TABLE["longest_pause_seconds"]]
    with pytest.raises(StreamError):
        budget.next_pause(Cut("lost"))
    budget.renew()
    monkeypatch.setattr(retries.random, "uniform", lambda low, high: low)
    assert budget.next_pause(Cut("lost")) == 0.5
    assert budget.next_pause(Cut("busy", retry_after=9.0)) == 9.0


def test_the_defaults_are_those_of_the_table() -> None:
    stream = Stream("http://127.0.0.1:1/stream")
    assert stream._backoff == TABLE["first_pause_seconds"]
    assert stream._retries == TABLE["max_reconnects"]
    assert TABLE["longest_pause_seconds"] == retries.LONGEST_PAUSE_SECONDS
    assert TABLE["request_timeout_seconds"] == connection.REQUEST_TIMEOUT_SECONDS


async def test_a_url_that_cannot_work_is_an_error_at_once() -> None:
    async with Stream("gopher://127.0.0.1/stream", backoff=60) as stream:
        await stream.send("hello")
        with pytest.raises(StreamError, match="gopher"):
            await anext(stream)
        assert stream.status is Status.ERROR


@pytest.mark.parametrize("package", ["httpx", "anyio"])
def test_a_missing_package_is_named_with_its_extra(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import streamstores.client"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    message = f'streamstores.client needs {package}: pip install "streamstores[client]"'
    assert message in run.stderr.decode()


def test_importing_streamstores_does_not_load_httpx() -> None:
    code = "import streamstores, sys; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_httpx_client_is_accepted_by_type_checkers() -> None:
    client: connection.HttpClient = httpx.AsyncClient()
    assert connection._library_of(client) is httpx
