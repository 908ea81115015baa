"""What a whole chat costs beside the work of its model: calls of the store, and garbage."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from types import AsyncGeneratorType, CoroutineType

import pytest

from streamstores import MemoryStreamStore
from streamstores.http import create_stream_handler
from streamstores.http._asgi.event_stream import _BodySender, event_stream

CALLS = ("create", "append", "read", "info", "wait")


async def model(request):
    for number in range(3):
        yield f"token {number} "
        await asyncio.sleep(0)


async def chat(handler, stream_id: str, *, leaves_at: bytes | None = None) -> bytes:
    """The answer, as an ASGI server gets it, of a client that stays to the end, or leaves when
    it has read these bytes."""
    sent: list[bytes] = []
    leaving = asyncio.Event()
    body = json.dumps({"prompt": "hello", "id": stream_id}).encode()
    requests = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if requests:
            return requests.pop()
        await leaving.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message.get("body", b""))
        if leaves_at is not None and leaves_at in b"".join(sent):
            leaving.set()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/stream",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await handler(scope, receive, send)
    return b"".join(sent)


async def tasks_have_ended():
    """Also those that end a run after its client has the whole answer."""
    while any(task.get_name().startswith("streamstores") for task in asyncio.all_tasks()):
        await asyncio.sleep(0)


@pytest.fixture
async def store():
    async with MemoryStreamStore() as store:
        yield store


@pytest.fixture
async def handler(store):
    async with create_stream_handler(model, store, watch_signals=False) as handler:
        yield handler


async def test_a_chat_costs_the_store_one_creation_and_its_appends(store, handler, monkeypatch):
    calls = Counter()

    def counted(name):
        method = getattr(store, name)

        def call(*args, **options):
            calls[name] += 1
            return method(*args, **options)

        return call

    for name in CALLS:
        monkeypatch.setattr(store, name, counted(name))
    assert b"token 2" in await chat(handler, "a")
    appends = calls.pop("append")
    assert 1 <= appends <= 4
    assert calls == {"create": 1}


async def test_a_live_chat_has_one_task_for_its_model_and_one_for_its_writer(store):
    """Beside those of its client. A watch and a reader of the stream need none as long as no
    other process changes it."""
    goes_on = asyncio.Event()

    async def silent_model(request):
        yield "token"
        await goes_on.wait()

    async with create_stream_handler(silent_model, store, watch_signals=False) as handler:
        await chat(handler, "a", leaves_at=b"token")
        names = {task.get_name() for task in asyncio.all_tasks()}
        ours = {name for name in names if name.startswith("streamstores")}
        assert ours == {"streamstores: run a", "streamstores: write a"}
        goes_on.set()
        await tasks_have_ended()


@pytest.mark.parametrize("leaves_at", [None, b"token 0"])
async def test_a_chat_that_has_ended_is_freed_without_a_garbage_collection(handler, leaves_at):
    await chat(handler, "the first", leaves_at=leaves_at)
    await tasks_have_ended()
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        for number in range(3):
            await chat(handler, f"chat {number}", leaves_at=leaves_at)
            await tasks_have_ended()
        gc.collect()
        kinds = {type(each) for each in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    ours = {kind.__name__ for kind in kinds if kind.__module__.startswith("streamstores")}
    assert not ours
    assert not kinds & {asyncio.Task, CoroutineType, AsyncGeneratorType}


async def test_a_silent_response_is_looked_at_when_its_ping_is_due_and_not_before():
    """One timer every 15 seconds, by default, for each of perhaps ten thousand clients."""

    async def send(message):
        raise AssertionError("nothing is sent")

    sender = _BodySender(send, event_stream(send_timeout=600.0, ping_interval=300.0))
    due = sender._timer.when() - asyncio.get_running_loop().time()
    assert 290 < due <= 300
    await sender.close()
