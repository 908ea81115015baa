"""What clients are told of an answer that expired while they were away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from streamstores import MemoryStreamStore
from streamstores.integrations.ai_sdk import AISDKChats
from streamstores.integrations.openai_responses import OpenAIResponses, ResponseRequest

PATIENCE_SECONDS = 60


def client_of(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(
        transport=transport, base_url="http://test", timeout=PATIENCE_SECONDS
    )


async def expire_everything(store: MemoryStreamStore) -> None:
    for each in [info.id async for info in store.list()]:
        await store.delete(each)


async def words(goes_on: asyncio.Event) -> AsyncIterator[dict[str, str]]:
    yield {"type": "text-delta", "id": "t", "delta": "one"}
    await goes_on.wait()
    yield {"type": "text-delta", "id": "t", "delta": "two"}


async def test_a_chat_whose_answer_expired_has_none_and_can_be_asked_again() -> None:
    goes_on = asyncio.Event()
    async with MemoryStreamStore() as store:
        chats = AISDKChats(store)

        async def ask(request: Request) -> Response:
            return await chats.answer("c", await request.json(), words(goes_on))

        async def resume(request: Request) -> Response:
            return await chats.resume("c")

        async def stop(request: Request) -> Response:
            return await chats.stop("c", {})

        routes = [
            Route("/ask", ask, methods=["POST"]),
            Route("/resume", resume),
            Route("/stop", stop, methods=["POST"]),
        ]
        async with client_of(Starlette(routes=routes)) as client:
            body = {"messages": ["hello"]}
            cut = asyncio.ensure_future(client.post("/ask", json=body))
            while not any([info.tail async for info in store.list()]):
                await asyncio.sleep(0.01)
            await expire_everything(store)
            await asyncio.wait([cut], timeout=PATIENCE_SECONDS)
            assert cut.done(), "the client of an answer that is gone hangs"
            assert (await client.get("/resume")).status_code == 204
            assert (await client.post("/stop")).json() == {"stopped": False}
            goes_on.set()
            again = await client.post("/ask", json=body)
            assert "one" in again.text
            assert "two" in again.text
            assert again.text.endswith("data: [DONE]\n\n")
        await chats.aclose()


async def test_a_response_that_expired_is_not_found_in_the_words_of_the_api() -> None:
    async def respond(request: ResponseRequest) -> AsyncIterator[str]:
        yield "one"

    async with MemoryStreamStore() as store:
        responses = OpenAIResponses(store, respond)
        async with client_of(Starlette(routes=[Mount("/v1", responses)])) as client:
            made = (
                await client.post("/v1/responses", json={"model": "m", "input": "x"})
            ).json()
            await expire_everything(store)
            for query in ("", "?stream=true", "?stream=true&starting_after=1"):
                answer = await client.get(f"/v1/responses/{made['id']}{query}")
                assert answer.status_code == 404
                assert answer.json()["error"]["type"] == "not_found_error"
        await responses.aclose()
