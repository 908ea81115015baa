"""The JavaScript client, as an endpoint of the chat handler."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse

from streamstores.http._asgi.exchange import Exchange

__all__ = ["send_script"]

_SCRIPT = Path(__file__).parent / "stream.js"


async def send_script(exchange: Exchange) -> None:
    """Answer with `stream.js`. It holds nothing secret, so `authorize` is not asked."""
    headers = {"Cache-Control": "no-cache"}
    media_type = "text/javascript; charset=utf-8"
    await exchange.answer(FileResponse(_SCRIPT, headers=headers, media_type=media_type))
