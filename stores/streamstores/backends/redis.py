"""Streams in Redis or Valkey: standalone, behind Sentinel, or in a Cluster."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from streamstores import limits as bounds
from streamstores.backends._redis import scripts
from streamstores.backends._redis.configuration import configure
from streamstores.backends._redis.connections import Endpoint
from streamstores.backends._redis.error_translation import ASKING, MUTATING
from streamstores.backends._redis.notice_channels import NoticeChannels
from streamstores.backends._redis.router import RedisClient, Router
from streamstores.backends._redis.shared_connection import HandleReply
from streamstores.backends._redis.stream_versions import StreamVersions
from streamstores.changes import Changes, is_namesake
from streamstores.errors import (
    CorruptData,
    InvalidRequest,
    OffsetOutOfRange,
    StreamExists,
    StreamNotFound,
)
from streamstores.limits import Limits
from streamstores.methods import CommonMethods
from streamstores.mutations import (
    Mutation,
    changes_nothing,
    check_creation,
    check_mutation,
    records_of,
    refuse,
)
from streamstores.store import Page, State, StateLike, StreamInfo
from streamstores.stored_form import attributes_to_json, error_to_json

__all__ = ["RedisStreamStore"]

RECORDS_PER_SCRIPT = 1_000
BYTES_PER_SCRIPT = 524_288
"""What one script packs at most, unless a single record is bigger: other clients of the server
wait for it, about two milliseconds."""

KEYS_PER_SCAN = 500


class RedisStreamStore(CommonMethods):
    """Streams in a Redis (6.2 or later) or Valkey server.

    `client` is a URL or a `redis.asyncio` client: `redis://user:password@host:6379/0`,
    `rediss://…` for TLS, `redis+sentinel://host:26379,host:26379/name-of-the-master`,
    `redis+cluster://host,host`; or a `Redis` or `RedisCluster`, which stays open.

    **Atomic.** Each operation is one script on the stream's master, which runs whole and
    alone; the keys of a stream share a hash tag, so a cluster keeps them together.

    **What survives.** A killed process of yours loses nothing that was acknowledged. A killed
    server loses what its persistence had not saved: nothing with `appendfsync always`, about
    the last second with `everysec`, all of it with neither AOF nor RDB. A failover can lose
    acknowledged appends, because replication is asynchronous: a replica that is promoted (by
    Sentinel, a Cluster, or a cloud) may lack the last of them, and those that a master took
    after its successor's promotion are dropped. Then the tail is behind what a writer knows,
    and its next append gets `Conflict`; a follower may have read what no longer exists.

    `durability` narrows this. With `"replica"` a mutation returns once one replica has it too
    (WAIT), with `"disk"` once the master has written it to disk (WAITAOF, Redis 7.2), with
    `"replica-disk"` once both have. If that takes longer than half of `timeout`, it raises
    `OutcomeUnknown`: the mutation was applied, and may be lost; an `append` without arguments
    waits for the confirmation again. A server that cannot give the durability is refused when
    the store opens. None of them makes Redis a consensus system; docs/stores/redis.md has
    figures. Never let the server evict streams: `noeviction`, or a `volatile-…` policy.

    **After `OutcomeUnknown`.** If the connection broke, the mutation may still be in the
    server's buffers. The store has the server drop it (CLIENT KILL) before it sends anything
    else there. So once a later call of this store has succeeded, the outcome is final: the
    mutation is visible now, or it will never be applied. Another store or process has no such
    guarantee, nor do servers that do not offer CLIENT KILL: there, retry only under `version`
    or `at`, which let a single attempt win.

    **Connections.** Two: for all requests, and for notices. In a cluster up to two to each
    master; with a `durability` another for mutations; with Sentinel another to each sentinel.
    Their number does not depend on that of streams, producers and followers. As soon as
    Sentinel or a reply names another master, all of them move there.

    **Cost.** One round trip for each operation, two with a `durability`; a `read` costs a round
    trip for each 1,000 records or 512 KiB.

    `prefix` is the namespace of the keys. `timeout` is in seconds, for connecting and for the
    silence of a server that owes a reply; while replies come, a call waits for its turn. Raises
    `InvalidRequest` for arguments that cannot work, before anything connects.
    """

    capabilities: frozenset[str] = frozenset({"changes", "durable", "list", "multi_process"})

    # True if `__init__` refused its arguments; `__del__` has to know.
    _is_closed = True

    def __init__(
        self,
        client: str | RedisClient,
        *,
        prefix: str | None = None,
        durability: str | None = None,
        timeout: float | None = None,
        limits: Limits | None = None,
    ) -> None:
        given = configure(client, prefix, durability, timeout)
        self.limits: Limits = limits or Limits()
        self._keys = keys = given.keys
        self._durability = given.durability
        self._place = given.place
        self._router = router = Router(
            given.client, given.owned, given.durability, given.timeout
        )
        self._channels = NoticeChannels(router, keys.info, keys.stream_id)
        self.changes: Changes = self._channels.changes
        if not router.is_cluster:
            look = StreamVersions(router, keys).find
            self.changes.look_every(self.limits.poll_interval, look)
        self._is_closed = False

    @classmethod
    def from_url(cls, url: str) -> RedisStreamStore:
        """A store from `redis://`, `rediss://`, `redis+sentinel://` or `redis+cluster://`.

        Options: `prefix`, `durability`, `timeout`, `db`, `client_name`, `tls`, `ssl_verify`,
        `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_keyfile_password`, and for Sentinel
        `sentinel_username` and `sentinel_password`.
        """
        return cls(url)

    def __repr__(self) -> str:
        settings = f"prefix={self._keys.prefix!r} durability={self._durability.name!r}"
        return f"<RedisStreamStore {self._place} {settings}>"

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        """Begin a stream: one script. Raises as the contract says."""
        creation = check_creation(
            self.limits, stream_id, chunks, ttl, expires_at, attributes, state
        )

        # Not after the `await`: this runs with the reply, even if the caller has been
        # cancelled, because followers must hear of a stream that begins.
        def take(reply: bytes) -> StreamInfo:
            code, info = self._parse(stream_id, reply)
            if code != b"1":
                raise StreamExists(f"stream {stream_id!r} exists", info)
            self.changes.noticed(stream_id)
            return info

        info: StreamInfo = await self._mutate(
            scripts.CREATE,
            stream_id,
            bounds.first_version(),
            creation.state.value,
            *_expiry(creation.ttl, creation.expires_at),
            attributes_to_json(creation.attributes),
            *creation.chunks,
            handle=take,
        )
        return info

    async def append(
        self,
        stream_id: str,
        *chunks: bytes,
        at: int | None = None,
        version: int | None = None,
        state: StateLike | None = None,
        error: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        """Change a stream: one script, and the confirmation if the store has a `durability`.

        Raises as the contract says. A heartbeat (no arguments) and a repeated final state are
        confirmed like any other append, so either of them tells after `OutcomeUnknown` that
        everything before it is as durable as asked.
        """
        bounds.check_stream_id(stream_id, self.limits)
        mutation = check_mutation(self.limits, chunks, at, version, state, error, attributes)
        info: StreamInfo = await self._mutate(
            scripts.APPEND,
            stream_id,
            b"" if mutation.at is None else b"%d" % mutation.at,
            b"" if mutation.version is None else b"%d" % mutation.version,
            b"" if mutation.state is None else mutation.state.value,
            b"" if mutation.error is None else error_to_json(mutation.error),
            b"" if mutation.attributes is None else attributes_to_json(mutation.attributes),
            *mutation.chunks,
            handle=lambda reply: self._take_append(stream_id, mutation, reply),
        )
        return info

    def _take_append(self, stream_id: str, mutation: Mutation, reply: bytes) -> StreamInfo:
        code, info = self._parse(stream_id, reply)
        if code == b"1":
            self.changes.committed(info, records_of(mutation.chunks, info.tail))
        elif not changes_nothing(info, mutation):
            refuse(info, mutation)
            raise CorruptData(f"stream {stream_id!r} refuses an append without a reason")
        return info

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
        """The records from `offset` on: one script for each 1,000 of them or 512 KiB.

        The page is still one snapshot: a stream that ends or begins anew meanwhile ends it.
        """
        bounds.check_stream_id(stream_id, self.limits)
        offset = bounds.check_offset(offset)
        bounds.check_max_bytes(max_bytes)
        page = await self._read_some(stream_id, offset, max_bytes)
        if page.next_offset > page.info.tail or offset > page.info.tail:
            raise OffsetOutOfRange(stream_id, offset, tail=page.info.tail)
        end = offset + max_bytes
        while page.next_offset < min(page.info.tail, end):
            more = await self._read_more(page, end)
            if more is None:
                break
            page = more
        return page

    async def _read_more(self, page: Page, end: int) -> Page | None:
        """The page with what one more script adds.

        None if it adds nothing, or if the stream is gone meanwhile: what was read before is
        still one snapshot of it.
        """
        try:
            more = await self._read_some(page.info.id, page.next_offset, end - page.next_offset)
        except StreamNotFound:
            return None
        fits = more.next_offset <= end and more.records
        if not fits or is_namesake(page.info, more.info):
            return None
        return more._replace(records=page.records + more.records)

    async def _read_some(self, stream_id: str, offset: int, max_bytes: int) -> Page:
        """What one script reads."""

        def take(reply: Any) -> Page:
            head, lengths, *parts = reply or [b"", b""]
            info = self._parse(stream_id, head).info
            records = scripts.records_of(lengths, parts, offset)
            return Page(records, records[-1].end if records else offset, info)

        page: Page = await self._ask(
            scripts.READ,
            stream_id,
            offset,
            min(max_bytes, BYTES_PER_SCRIPT),
            RECORDS_PER_SCRIPT,
            handle=take,
        )
        return page

    async def info(self, stream_id: str) -> StreamInfo:
        bounds.check_stream_id(stream_id, self.limits)
        info: StreamInfo = await self._ask(
            scripts.INFO, stream_id, handle=lambda reply: self._parse(stream_id, reply).info
        )
        return info

    async def expire(
        self,
        stream_id: str,
        ttl: float | None = None,
        *,
        expires_at: datetime | None = None,
    ) -> StreamInfo:
        """Change when the stream expires: one script, which sets the time on both keys."""
        bounds.check_stream_id(stream_id, self.limits)
        ttl = bounds.check_expiry(ttl, expires_at)

        def take(reply: bytes) -> StreamInfo:
            code, info = self._parse(stream_id, reply)
            if code == b"2":
                self.changes.noticed(stream_id)
            return info

        info: StreamInfo = await self._mutate(
            scripts.EXPIRE, stream_id, *_expiry(ttl, expires_at), handle=take
        )
        return info

    async def delete(self, stream_id: str) -> None:
        bounds.check_stream_id(stream_id, self.limits)

        def take(reply: bytes) -> None:
            if not reply:
                raise StreamNotFound(stream_id)
            self.changes.noticed(stream_id)

        await self._mutate(scripts.DELETE, stream_id, handle=take)

    async def list(self, prefix: str = "") -> AsyncIterator[StreamInfo]:
        """Every living stream whose id starts with `prefix`, once, in no set order.

        Walks all keys of the server (SCAN), whatever the prefix, and asks for the info of each
        stream: for operators, not for serving. Remembers the ids it has seen while it runs.
        """
        bounds.check_prefix(prefix)
        self._check_open()
        with ASKING:
            masters = await self._router.masters()
        seen: set[str] = set()
        for endpoint in masters:
            async for found in self._scan(endpoint, prefix):
                new = found - seen
                seen |= new
                for info in await asyncio.gather(*map(self._find, new)):
                    if info is not None:
                        yield info

    async def sweep(self, *, limit: int = 1000) -> int:
        """Always 0: the server removes the keys of expired streams by itself."""
        bounds.check_sweep_limit(limit)
        self._check_open()
        return 0

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        # First, so that followers end because the store is closed and not because a connection
        # is lost.
        self.changes.close()
        await self._channels.aclose()
        await self._router.aclose()

    async def __aenter__(self) -> RedisStreamStore:
        self._check_open()
        try:
            with ASKING:
                await self._router.open()
        except BaseException:
            await self._router.disconnect()  # `__aexit__` will not be called
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._is_closed or not self._router.is_open:
            return
        warnings.warn("unclosed RedisStreamStore", ResourceWarning, stacklevel=1)
        with suppress(RuntimeError):  # the loop may be closed
            self._channels.hang_up()
            self._router.hang_up()

    async def _scan(self, endpoint: Endpoint, prefix: str) -> AsyncIterator[set[str]]:
        """The ids with this prefix on a single server, in batches; some may come again."""
        pattern = self._keys.pattern(prefix)
        cursor = b"0"
        while True:
            with ASKING:
                cursor, keys = await self._router.ask(
                    endpoint,
                    *(b"SCAN", cursor, b"MATCH", pattern),
                    # By type, because a key of another program may have such a name.
                    *(b"COUNT", KEYS_PER_SCAN, b"TYPE", b"hash"),
                )
            yield {self._keys.stream_id(key) for key in keys}
            if cursor == b"0":
                return

    async def _find(self, stream_id: str) -> StreamInfo | None:
        try:
            return await self.info(stream_id)
        except (StreamNotFound, InvalidRequest):  # or it is a key that no store wrote
            return None

    async def _mutate(
        self, script: scripts.Script, stream_id: str, *arguments: Any, handle: HandleReply
    ) -> Any:
        with MUTATING:
            return await self._router.run(
                script,
                self._keys_of(stream_id),
                *arguments,
                handle=handle,
                is_mutation=True,
            )

    async def _ask(
        self, script: scripts.Script, stream_id: str, *arguments: Any, handle: HandleReply
    ) -> Any:
        with ASKING:
            return await self._router.run(
                script, self._keys_of(stream_id), *arguments, handle=handle
            )

    def _keys_of(self, stream_id: str) -> tuple[bytes, bytes]:
        self._check_open()
        return self._keys.info(stream_id), self._keys.records(stream_id)

    def _parse(self, stream_id: str, reply: bytes) -> scripts.ScriptReply:
        parsed = scripts.parse_reply(stream_id, reply)
        if parsed is None:
            raise StreamNotFound(stream_id)
        return parsed

    def _check_open(self) -> None:
        if self._is_closed:
            raise InvalidRequest("the store is closed")
        self._router.check_process()


def _expiry(ttl: float | None, expires_at: datetime | None) -> tuple[Any, Any]:
    """Both as the scripts take them: empty for None."""
    return (
        b"" if ttl is None else repr(ttl),
        b"" if expires_at is None else bounds.to_microseconds(expires_at),
    )
