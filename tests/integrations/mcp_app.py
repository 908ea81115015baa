"""An MCP server that counts, for both major versions of the SDK."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from streamstores import StreamStore, open_store
from streamstores.integrations.mcp import MCPEventStore

RETRY_MS = 50


async def count(context: Any, to: int, pause: float, label: str, polls: int = 0) -> str:
    """Report each number as progress, then return them all. With `polls` the connection is
    closed after so many of them, so that the client has to ask again."""
    for number in range(1, to + 1):
        await context.report_progress(number, to, f"{label}{number}")
        if polls and number % polls == 0:
            await context.close_sse_stream()
        await asyncio.sleep(pause)
    return " ".join(f"{label}{number}" for number in range(1, to + 1))


def make_app(store: StreamStore, *, until: Path | None = None, **options: Any) -> Any:
    """The application. Its tool `finish` returns when the file `until` exists."""
    events = MCPEventStore(store, **options)
    server, app_options = _make_server({"event_store": events, "retry_interval": RETRY_MS})

    @server.tool()
    async def finish() -> str:
        while until is None or not until.exists():
            await asyncio.sleep(0.01)
        return "finished"

    return events.middleware(server.streamable_http_app(**app_options))


def _make_server(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A server with the tool `count`, and what its `streamable_http_app` takes."""
    try:
        from mcp.server.mcpserver import Context, MCPServer
    except ModuleNotFoundError:
        from mcp.server.fastmcp import Context, FastMCP

        server, options = FastMCP("counting", **options), {}
    else:
        server = MCPServer("counting")
    # The SDK finds its context by the annotation, and that class has moved.
    count.__annotations__["context"] = Context
    server.tool()(count)
    return server, options


if "STORE" in os.environ:
    app = make_app(open_store(os.environ["STORE"]), until=Path(os.environ["UNTIL"]))
