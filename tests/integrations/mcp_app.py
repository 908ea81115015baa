"""An MCP server that counts, for both major versions of the SDK, and for FastMCP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamstores import StreamStore, open_store
from streamstores.integrations.mcp import MCPEventStore

RETRY_MS = 50
WITH_FASTMCP = os.environ.get("STREAMSTORES_MCP_SERVER") == "fastmcp"


async def count(context: Any, to: int, pause: float, label: str, polls: int = 0) -> str:
    """Report each number as progress, then return them all. With `polls` the connection is
    closed after so many of them, so that the client has to ask again."""
    for number in range(1, to + 1):
        await context.report_progress(number, to, f"{label}{number}")
        if polls and number % polls == 0:
            await context.close_sse_stream()
        await asyncio.sleep(pause)
    return " ".join(f"{label}{number}" for number in range(1, to + 1))


def make_app(store: StreamStore, *, until: Path | None = None) -> Any:
    """The application. Its tool `finish` returns when the file `until` exists."""
    events = MCPEventStore(store)
    make_server = _with_fastmcp if WITH_FASTMCP else _with_sdk
    server, app = make_server(events)

    @server.tool()
    async def finish() -> str:
        while until is None or not until.exists():
            await asyncio.sleep(0.01)
        return "finished"

    return app()


def _with_sdk(events: MCPEventStore) -> tuple[Any, Callable[[], Any]]:
    """A server with the tool `count`, and what makes its application."""
    options: dict[str, Any] = {"event_store": events, "retry_interval": RETRY_MS}
    try:
        from mcp.server.mcpserver import Context, MCPServer
    except ModuleNotFoundError:
        from mcp.server.fastmcp import Context, FastMCP

        server, options = FastMCP("counting", **options), {}
    else:
        server = MCPServer("counting")
    _add_count(server, Context)
    return server, lambda: events.middleware(server.streamable_http_app(**options))


def _with_fastmcp(events: MCPEventStore) -> tuple[Any, Callable[[], Any]]:
    from fastmcp import Context, FastMCP
    from starlette.middleware import Middleware

    server = FastMCP("counting")
    _add_count(server, Context)
    options = {"event_store": events, "retry_interval": RETRY_MS}
    middleware = [Middleware(events.middleware)]
    return server, lambda: server.http_app(middleware=middleware, **options)


def _add_count(server: Any, context_class: Any) -> None:
    # The context is found by its annotation, and its class is another in each of them.
    count.__annotations__["context"] = context_class
    server.tool()(count)


if "STORE" in os.environ:
    app = make_app(open_store(os.environ["STORE"]), until=Path(os.environ["UNTIL"]))
