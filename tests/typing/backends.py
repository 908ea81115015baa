"""Every backend of this project is a `StreamStore`."""

import asyncpg
import redis.asyncio
from redis.asyncio.cluster import RedisCluster

from streamstores import (
    MemoryStreamStore,
    PostgresStreamStore,
    RedisStreamStore,
    S3StreamStore,
    SQLiteStreamStore,
    StreamStore,
    open_store,
)

memory: StreamStore = MemoryStreamStore()
sqlite: StreamStore = SQLiteStreamStore("streams.db", durability="power")
postgres: StreamStore = PostgresStreamStore("postgresql://localhost/app")
redis_store: StreamStore = RedisStreamStore("redis://localhost")
s3: StreamStore = S3StreamStore("s3://bucket/prefix")
opened: StreamStore = open_store("sqlite:///streams.db")

not_a_store: StreamStore = object()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


async def use_own_clients(pool: asyncpg.Pool) -> None:
    """A client or pool that the application made already."""
    stores: list[StreamStore] = [
        PostgresStreamStore(pool),
        RedisStreamStore(redis.asyncio.Redis()),
        RedisStreamStore(RedisCluster(host="localhost")),
    ]
    async with stores[0] as store:
        await store.info("a")
