"""Clients of the package `openai` that ask an endpoint of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from openai import AsyncOpenAI


@asynccontextmanager
async def openai_clients() -> AsyncIterator[Callable[..., AsyncOpenAI]]:
    """Makes clients, which do not repeat requests, and closes them."""
    async with AsyncExitStack() as stack:

        def client_of(url: str, user: str = "alice") -> AsyncOpenAI:
            client = AsyncOpenAI(base_url=f"{url}/v1", api_key=user, max_retries=0)
            stack.push_async_callback(client.close)
            return client

        yield client_of
