"""Models, the handlers and the Python client."""

from collections.abc import AsyncIterator, Iterator

from streamstores import MemoryStreamStore
from streamstores.client import Status, Stream, StreamEvent
from streamstores.http import (
    Event,
    StreamRequest,
    continues,
    create_durable_streams_app,
    create_stream_handler,
)


async def parrot(request: StreamRequest) -> AsyncIterator[str]:
    for word in request.prompt.split():
        yield word


async def with_usage(request: StreamRequest) -> AsyncIterator[str | Event]:
    yield request.partial
    yield Event("usage", "12 tokens")


def in_a_thread(request: StreamRequest) -> Iterator[str]:
    yield request.prompt


@continues
async def continued(request: StreamRequest) -> AsyncIterator[str]:
    yield request.prompt[len(request.partial) :]


def without_request() -> Iterator[str]:
    yield "text"


store = MemoryStreamStore()
app = create_stream_handler(models=parrot, store=store)
app = create_stream_handler(
    models={"parrot": parrot, "usage": with_usage, "thread": in_a_thread, "own": continued},
    store=store,
    resumable=True,
)
create_stream_handler(models=without_request, store=store)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
create_stream_handler(models=parrot, store="memory://")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
durable_app = create_durable_streams_app(store)


async def talk() -> str:
    def show(stream: Stream) -> None:
        print(stream.text, stream.status is Status.STREAMING, stream.can_resume)

    def note(event: StreamEvent) -> None:
        print(event.name, event.data)

    async with Stream(
        "https://example.org/chat/stream", on_change=show, on_event=note
    ) as stream:
        await stream.send("Why is the sky blue?")
        async for piece in stream:
            print(piece.upper())
        await stream.stop()
        await stream.resume()
        return stream.text
