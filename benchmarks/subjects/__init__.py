"""The subjects: adapters with the same small interface for our stores, bare drivers and peers.

`raw` is the bare driver doing the same work with as little as possible around it. A store can
come close to that limit, but cannot pass it by much. A peer is used as its documentation says.
A subject that lacks a function raises `NotOffered`, and its cell stays empty.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Sequence
from importlib.util import find_spec
from urllib.parse import parse_qsl, urlencode, urlsplit

Take = Callable[[bytes], object]
"""Called with the bytes of each record as it arrives."""


MAX_CONNECTIONS = 4_000
"""The size of a redis-py pool. Its default is too small for the many readers of the peers."""


class NotOffered(Exception):
    """The subject has no such function."""


class Subject:
    """A way to keep streams, opened on an empty namespace that the URL names."""

    needs: tuple[str, ...] = ()
    """The modules that only a process of the subject's own imports."""

    def __init__(self, url: str) -> None:
        self.url = url

    @classmethod
    def check_installed(cls) -> None:
        """Raise `ImportError` if something is missing that the adapter does not import."""
        for module in cls.needs:
            if find_spec(module) is None:
                raise ImportError(f"{module} is not installed")

    async def open(self) -> None:
        """Connect."""

    async def aclose(self) -> None:
        """Disconnect, and keep what is stored."""

    async def create(self, stream_id: str) -> None:
        """Begin a stream, if the subject has a separate step for it."""

    async def append_each(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        """Append one after another: each chunk is stored before the next append starts."""
        raise NotOffered

    async def write(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        """Write as fast as the subject can; all chunks are stored when this returns."""
        await self.append_each(stream_id, chunks)

    async def fill(self, stream_id: str, chunks: Sequence[bytes]) -> None:
        """Write the chunks in the fastest way; this is not measured."""
        await self.write(stream_id, chunks)

    async def produce(self, stream_id: str, source: AsyncIterator[bytes]) -> None:
        """Write what a source yields, at the pace of the source, like the answer of a model."""
        raise NotOffered

    async def follow(self, stream_id: str, take: Take) -> None:
        """Read from the start, then live; runs until it is cancelled or the stream ends."""
        raise NotOffered

    async def finish(self, stream_id: str) -> None:
        """Mark the stream as complete, if the subject has a separate step for it."""


_OURS_BY_WORKERS = {
    "streamstores": "chat:Ours",
    "streamstores, 2 workers": "chat:OursInTwoWorkers",
    "streamstores, 4 workers": "chat:OursInFourWorkers",
}

# backend: {name: "module:class"}. `raw` comes first, because the ratios are to its figures.
SUBJECTS: dict[str, dict[str, str]] = {
    "memory": {
        "raw": "raw_memory:RawMemory",
        "streamstores": "ours:Ours",
        "assistant-stream": "assistant_stream_peer:InMemory",
        "resumable-sse": "resumable_sse_peer:InMemory",
        "rakaia-streams": "rakaia_peer:InMemory",
    },
    "sqlite": {
        "raw": "raw_sqlite:RawSQLite",
        "streamstores": "ours:Ours",
    },
    "postgres": {
        "raw": "raw_postgres:RawPostgres",
        "raw, prepared": "raw_postgres:PreparedPostgres",
        "streamstores": "ours:Ours",
    },
    "redis": {
        "raw": "raw_redis:RawRedis",
        "streamstores": "ours:Ours",
        "assistant-stream": "assistant_stream_peer:InRedis",
        "fastapi-resumable-stream": "fastapi_resumable_peer:InRedis",
        "resumable-sse": "resumable_sse_peer:InRedis",
        "resumable-stream": "resumable_stream_peer:InRedis",
    },
    "s3": {
        "raw": "raw_s3:RawS3",
        "streamstores": "ours_s3:OursInS3",
    },
    "http": {
        "raw": "web:Bare",
        "streamstores": "web:ChatHandler",
        "streamstores (Durable Streams)": "web:DurableStreams",
        "rakaia-streams": "web:Rakaia",
        "durable-streams (Node)": "web:NodeReference",
    },
    "chat-memory": {
        "raw": "chat:Plain",
        "raw, bare ASGI": "chat:BareASGI",
        "streamstores": "chat:Ours",
        "streamstores, granian": "chat:OursOnGranian",
        "streamstores, hypercorn": "chat:OursOnHypercorn",
    },
    "chat-sqlite": {"raw": "chat:Plain", **_OURS_BY_WORKERS},
    "chat-postgres": {"raw": "chat:Plain", **_OURS_BY_WORKERS},
    "chat-redis": {
        "raw": "chat:Plain",
        **_OURS_BY_WORKERS,
        "assistant-stream": "chat:AssistantStream",
        "resumable-sse": "chat:ResumableSSE",
    },
}


def load(backend: str, name: str) -> type[Subject]:
    """The adapter; raises `ImportError` if its package is not installed."""
    module, cls = SUBJECTS[backend][name].split(":")
    subject: type[Subject] = getattr(importlib.import_module(f"{__name__}.{module}"), cls)
    subject.check_installed()
    return subject


def take_option(url: str, name: str) -> tuple[str, str]:
    """The URL without this option in its query, and the value of the option."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    value = options.pop(name, "")
    return parts._replace(query=urlencode(options)).geturl(), value
