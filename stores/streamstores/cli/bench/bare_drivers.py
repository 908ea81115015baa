"""What a store is compared with: its driver alone, which writes and reads the same bytes.

Nothing of this touches a stream, and what is written is removed at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from streamstores.errors import StoreUnavailable
from streamstores.url_options import merged

__all__ = ["BareDriver", "bare_driver"]

_KEPT_SECONDS = 600  # after which a killed command's key expires in Redis
_PAGE = 1_000


class BareDriver(ABC):
    """A driver without a store. Its errors are raised as `StoreUnavailable`."""

    does: str
    """What an append and a replay are here, in a line."""

    async def append(self, data: bytes) -> None:
        """Write a record, as durably as the store does unless `does` says otherwise."""
        with _as_unavailable():
            await self._append(data)

    async def replay(self, data: bytes, count: int) -> None:
        """Read `count` records of `data`, which the first call writes if it has to."""
        with _as_unavailable():
            await self._replay(data, count)

    @abstractmethod
    async def _append(self, data: bytes) -> None: ...

    @abstractmethod
    async def _replay(self, data: bytes, count: int) -> None: ...

    async def remove(self) -> None:  # noqa: B027  # not all leave something
        """Remove what was written."""


@contextlib.contextmanager
def _as_unavailable() -> Generator[None, None, None]:
    try:
        yield
    except Exception as exc:
        raise StoreUnavailable(f"the driver alone: {type(exc).__name__}: {exc}") from exc


@contextlib.asynccontextmanager
async def bare_driver(url: str, name: str) -> AsyncGenerator[BareDriver | None, None]:
    """The driver of the store at `url`; None for stores without one.

    `name` is one that nothing in the backend has yet. Raises the errors of the driver.
    """
    opened = _BY_SCHEME.get(url.partition("://")[0])
    if opened is None:
        yield None
        return
    async with opened(url, name) as driver:
        try:
            yield driver
        finally:
            with contextlib.suppress(Exception):  # the error that ended the block says more
                await driver.remove()


class _SQLite(BareDriver):
    does = "aiosqlite: an INSERT and its commit, in a file beside; a SELECT of all"

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def _append(self, data: bytes) -> None:
        await self._connection.execute("INSERT INTO appended VALUES (?)", (data,))

    async def _replay(self, data: bytes, count: int) -> None:
        async with self._connection.execute("SELECT data FROM replayed") as rows:
            if list(await rows.fetchall()):
                return
        await self._connection.execute("BEGIN")
        await self._connection.executemany("INSERT INTO replayed VALUES (?)", [(data,)] * count)
        await self._connection.execute("COMMIT")


@contextlib.asynccontextmanager
async def _sqlite(url: str, name: str) -> AsyncGenerator[BareDriver, None]:
    """A new file beside the store's, which is on the same disk; removed at the end."""
    import aiosqlite  # noqa: PLC0415  # only one of the drivers has to be installed

    parts = urlsplit(url)
    path = f"{unquote(parts.path)[1:]}-{name}"
    is_synced = ("durability", "power") in parse_qsl(parts.query)
    try:
        async with aiosqlite.connect(path, isolation_level=None) as connection:
            await connection.execute("PRAGMA journal_mode = WAL")
            await connection.execute(
                f"PRAGMA synchronous = {'FULL' if is_synced else 'NORMAL'}"
            )
            for table in ("appended", "replayed"):
                await connection.execute(f"CREATE TABLE {table} (data BLOB)")
            yield _SQLite(connection)
    finally:
        await asyncio.to_thread(_remove_database, path)


def _remove_database(path: str) -> None:
    for each in ("", "-wal", "-shm"):
        Path(path + each).unlink(missing_ok=True)


class _Postgres(BareDriver):
    does = (
        "asyncpg: pg_logical_emit_message and its commit, which needs no table; "
        "a SELECT of as many rows, which generate_series makes"
    )

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def _append(self, data: bytes) -> None:
        await self._connection.execute(
            "SELECT pg_logical_emit_message(true, 'streamstores-bench', $1::bytea)", data
        )

    async def _replay(self, data: bytes, count: int) -> None:
        await self._connection.fetch(
            "SELECT $1::bytea FROM generate_series(1, $2)", data, count
        )


@contextlib.asynccontextmanager
async def _postgres(url: str, name: str) -> AsyncGenerator[BareDriver, None]:
    """A connection with the settings of the store's own."""
    import asyncpg  # noqa: PLC0415

    from streamstores.backends._postgres import options  # noqa: PLC0415

    del name  # nothing is written that has one
    parts, given = options.split_url(url)
    settings = merged(options.DEFAULTS, given, {})
    commit = options.SYNCHRONOUS_COMMIT[settings["durability"]]
    size = settings["statement_cache_size"]
    cache = {} if size is None else {"statement_cache_size": size}
    connection = await asyncpg.connect(
        parts.geturl(),
        timeout=settings["timeout"],
        command_timeout=settings["command_timeout"],
        server_settings={"synchronous_commit": commit} if commit else None,
        **cache,
    )
    try:
        yield _Postgres(connection)
    finally:
        connection.terminate()


class _Redis(BareDriver):
    does = "redis-py: an XADD, which waits for no disk or replica; XRANGE by 1,000 entries"

    def __init__(self, client: Any, key: bytes) -> None:
        self._client = client
        self._appended = key + b":appended"
        self._replayed = key + b":replayed"
        self._is_filled = False

    async def _append(self, data: bytes) -> None:
        await self._client.xadd(self._appended, {"d": data})

    async def _replay(self, data: bytes, count: int) -> None:
        if not self._is_filled:
            await self._fill(data, count)
        last = "-"
        while entries := await self._client.xrange(self._replayed, last, count=_PAGE):
            last = f"({entries[-1][0].decode()}"

    async def _fill(self, data: bytes, count: int) -> None:
        for start in range(0, count, _PAGE):
            pipeline = self._client.pipeline(transaction=False)
            for _ in range(min(_PAGE, count - start)):
                pipeline.xadd(self._replayed, {"d": data})
            pipeline.expire(self._replayed, _KEPT_SECONDS)
            await pipeline.execute()
        self._is_filled = True

    async def begin(self) -> None:
        await self._client.xadd(self._appended, {"d": b"."})
        await self._client.expire(self._appended, _KEPT_SECONDS)

    async def remove(self) -> None:
        await self._client.delete(self._appended)
        await self._client.delete(self._replayed)


@contextlib.asynccontextmanager
async def _redis(url: str, name: str) -> AsyncGenerator[BareDriver, None]:
    """The client that a store of this URL would use, and two keys under its prefix."""
    from streamstores.backends._redis.configuration import configure  # noqa: PLC0415

    configuration = configure(url, None, None, None)
    async with contextlib.AsyncExitStack() as stack:
        for each in configuration.owned:
            stack.push_async_callback(each.aclose)
        # The braces of the store's keys send both of ours to one node of a Cluster.
        driver = _Redis(
            configuration.client, configuration.keys.info(f"streamstores-bench/{name}")
        )
        await driver.begin()
        yield driver


class _S3(BareDriver):
    does = "boto3 in a thread: a PUT; a GET of one object with all the bytes"

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._keys: list[str] = []
        self._replayed = ""

    async def _append(self, data: bytes) -> None:
        await self._put(data)

    async def _replay(self, data: bytes, count: int) -> None:
        self._replayed = self._replayed or await self._put(data * count)
        await asyncio.to_thread(self._get, self._replayed)

    async def _put(self, data: bytes) -> str:
        key = f"{self._prefix}/{len(self._keys)}"
        self._keys.append(key)
        put = partial(self._client.put_object, Bucket=self._bucket, Key=key, Body=data)
        await asyncio.to_thread(put)
        return key

    def _get(self, key: str) -> None:
        self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()

    async def remove(self) -> None:
        for key in self._keys:
            delete = partial(self._client.delete_object, Bucket=self._bucket, Key=key)
            await asyncio.to_thread(delete)


@contextlib.asynccontextmanager
async def _s3(url: str, name: str) -> AsyncGenerator[BareDriver, None]:
    """The client that a store of this URL would use, and objects under `probe/`."""
    from streamstores.backends._s3.boto_client import make_client  # noqa: PLC0415
    from streamstores.backends._s3.s3_options import parse_s3_url  # noqa: PLC0415

    options = parse_s3_url(url)
    client = await asyncio.to_thread(make_client, options)
    try:
        yield _S3(client, options.bucket, f"{options.prefix}probe/{name}")
    finally:
        client.close()


_BY_SCHEME = {
    "sqlite": _sqlite,
    "postgresql": _postgres,
    "postgres": _postgres,
    "redis": _redis,
    "rediss": _redis,
    "redis+sentinel": _redis,
    "redis+cluster": _redis,
    "s3": _s3,
}
