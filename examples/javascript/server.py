"""The plain page and its handler: `python examples/javascript/server.py`.

Needs the extra `http` and uvicorn. The text is written slowly, word by word.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route

from streamstores.http import create_stream_handler
from streamstores.models import text_source

PAGE = Path(__file__).with_name("plain.html")


def create_app() -> Starlette:
    handler = create_stream_handler(text_source())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with handler:
            yield

    page = Route("/", lambda request: FileResponse(PAGE))
    return Starlette(routes=[page, Mount("/chat", handler)], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(create_app())
