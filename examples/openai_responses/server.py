"""A Responses API whose model repeats what it is told, word by word."""

import asyncio
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from streamstores import open_store
from streamstores.integrations.openai_responses import OpenAIResponses, ResponseRequest


async def parrot(request: ResponseRequest) -> AsyncIterator[str]:
    words = request.body["input"].split()
    said = len(request.text.split())  # above 0 if the process before this one has died
    for word in words[said:]:
        yield f"{word} "
        await asyncio.sleep(0.1)


def create_app() -> Starlette:
    store = open_store("sqlite:///responses.db")
    responses = OpenAIResponses(store, parrot, revive=parrot, heartbeat=1.0)
    return Starlette(routes=[Mount("/v1", responses)], lifespan=responses.lifespan)


if __name__ == "__main__":
    uvicorn.run(create_app(), port=8000)
