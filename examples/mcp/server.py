"""An MCP server with one slow tool, whose messages are kept in a file."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from starlette.types import ASGIApp

from streamstores import open_store
from streamstores.integrations.mcp import MCPEventStore


def create_app() -> ASGIApp:
    store = open_store("sqlite:///events.db")
    events = MCPEventStore(store)

    @asynccontextmanager
    async def lifespan(server: MCPServer) -> AsyncIterator[None]:
        async with store:
            yield

    server = MCPServer("counter", lifespan=lifespan)

    @server.tool()
    async def count(to: int, context: Context) -> str:
        """Count slowly."""
        for number in range(1, to + 1):
            await context.report_progress(number, to, str(number))
            await asyncio.sleep(0.2)
        return f"I have counted to {to}"

    return events.middleware(server.streamable_http_app(event_store=events, retry_interval=500))


if __name__ == "__main__":
    uvicorn.run(create_app(), port=8000)
