"""The SDK's own client, on a network that breaks its connection in the middle of a call."""

import asyncio
import sys
from collections.abc import AsyncIterator

import httpx2
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


class BreakingTransport(httpx2.AsyncHTTPTransport):
    """A network that loses one connection after its fifth piece."""

    has_broken = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if b"tools/call" in request.content and not self.has_broken:
            self.has_broken = True
            response.stream = _Breaking(response.stream)
        return response


class _Breaking(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = 0
        async for piece in self._stream:
            if pieces == 5:
                print("(broken)", end=" ", flush=True)
                raise httpx2.ReadError("the network is down")
            pieces += 1
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


async def report(progress: float, total: float | None, message: str | None) -> None:
    print(message, end=" ", flush=True)


async def main(url: str) -> None:
    async with (
        httpx2.AsyncClient(transport=BreakingTransport(), timeout=60) as http,
        streamable_http_client(url, http_client=http) as (read, write),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        result = await session.call_tool("count", {"to": 12}, progress_callback=report)
        print(f"\n{result.content[0].text}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/mcp"))
