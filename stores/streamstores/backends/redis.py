"""Streams in Redis or Valkey: standalone, behind Sentinel, or in a Cluster."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from redis.exceptions import MovedError, RedisError, ResponseError

from streamstores import limits as bounds
from streamstores.backends._redis import scripts
from streamstores.backends._redis.connecting import Source
from streamstores.backends._redis.line import Handle, NotSent, ReplyLost
from streamstores.backends._redis.links import Client, Links
from streamstores.backends._redis.notices import Notices
from streamstores.backends._redis.settings import settings_of
from streamstores.changes import is_namesake
from streamstores.errors import (
    CorruptData,
    InvalidRequest,
    OffsetOutOfRange,
    OutcomeUnknown,
    StoreUnavailable,
    StreamExists,
    StreamNotFound,
)
from streamstores.limits import Limits
from streamstores.mutations import (
    Mutation,
    changes_nothing,
    check_end_state,
    check_mutation,
    check_state,
    records_of,
    refuse,
)
from streamstores.store import Page, State, StateLike, StreamInfo

__all__ = ["RedisStreamStore"]

RECORDS_A_SCRIPT = 1_000
BYTES_A_SCRIPT = 524_288
"""How much one script packs at most, besides a bigger record: other clients of the server wait
for it, about two milliseconds."""

KEYS_A_SCAN = 500

# Errors that a server gives where the data, not the server, is at fault.
_CORRUPT = re.compile("WRONGTYPE|CORRUPT|user_script|specified in XADD")
# Some of these arrive inside the text of a failed script.
_UNAVAILABLE = re.compile("OOM|MISCONF|READONLY|NOREPLICAS|NOPERM|CLUSTERDOWN|BUSY|permission")


class RedisStreamStore:
    """Streams in a Redis (6.2 or later) or Valkey server.

    `redis://user:password@host:6379/0`, `rediss://…` for TLS,
    `redis+sentinel://host:26379,host:26379/name-of-the-master`, `redis+cluster://host,host`;
    or a `redis.asyncio` client of the first or last kind, which stays open.

    **Atomic.** Each operation is one script on the stream's master, which runs whole and
    alone; the keys of a stream share a hash tag, so a cluster keeps them together.

    **What survives.** The process: always. The server: what its persistence saves; with
    `appendfsync everysec` a crash can lose the last second, with neither AOF nor RDB all of it.
    A failover: not everything. Replication is asynchronous, so a replica that is promoted
    (by Sentinel, a Cluster, or a cloud) may lack the last appends that were acknowledged, and
    those that a cut-off master still took are dropped. Then the tail is behind what a writer
    knows, and its next append gets `Conflict`; a follower may have read what no longer exists.
    `durability` narrows this: with `"replica"` a mutation returns when one replica has it
    too (WAIT), with `"disk"` when the master has written it to disk (WAITAOF, Redis 7.2),
    with `"replica-disk"` when both have. Where that does not come in time, `OutcomeUnknown`
    is raised: the mutation was applied, and may be lost. None of them makes it consensus.
    Never let the server evict streams: `noeviction`, or a `volatile-…` policy.

    **Connections.** One for all requests and one for notices; in a cluster up to one of each
    for each master; one more for mutations with a `durability`. However many streams,
    producers and followers there are.

    **Cost.** One round trip an operation, and with a `durability` two; a `read` takes one for
    each 1,000 records or 512 KiB.

    `prefix` is the namespace of the keys. `timeout` is seconds, to connect and for each reply.
    """

    capabilities = frozenset({"changes", "durable", "list", "multi_process"})

    # True where `__init__` refused its arguments, which `__del__` has to know.
    _is_closed = True

    def __init__(
        self,
        client: str | Client,
        *,
        prefix: str | None = None,
        durability: str | None = None,
        timeout: float | None = None,
        limits: Limits | None = None,
    ) -> None:
        settings = settings_of(client, prefix, durability, timeout)
        self.limits = limits or Limits()
        self._keys = settings.keys
        self._settle = settings.settle
        self._links = links = Links(settings.client, settings.owned, settings.timeout)
        self._notices = Notices(links, self._keys.info)
        self.changes = self._notices.changes
        self._is_closed = False

    @classmethod
    def from_url(cls, url: str) -> RedisStreamStore:
        """Of `redis://`, `rediss://`, `redis+sentinel://` or `redis+cluster://`, with the
        options `prefix`, `durability`, `timeout`, `db`, `client_name`, `tls`, `ssl_verify`,
        `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_keyfile_password`,
        `sentinel_username`, `sentinel_password`."""
        return cls(url)

    async def create(
        self,
        stream_id: str,
        *chunks: bytes,
        ttl: float | None = None,
        expires_at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
        state: StateLike = State.STREAMING,
    ) -> StreamInfo:
        bounds.check_stream_id(stream_id, self.limits)
        ttl = bounds.check_expiry(ttl, expires_at)
        chunks = bounds.check_chunks(chunks, self.limits)
        attributes = bounds.check_attributes(attributes, self.limits)
        state = check_state(state)

        def take(reply: bytes) -> StreamInfo:
            code, info = self._parse(stream_id, reply)
            if code != b"1":
                raise StreamExists(f"stream {stream_id!r} exists", info)
            self.changes.noticed(stream_id)
            return info

        info: StreamInfo = await self._mutate(
            scripts.CREATE,
            stream_id,
            *[bounds.first_version(), state.value, *_expiry(ttl, expires_at)],
            *[scripts.text_of(attributes), *chunks],
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
        bounds.check_stream_id(stream_id, self.limits)
        mutation = check_mutation(self.limits, chunks, at, version, state, error, attributes)
        info: StreamInfo = await self._mutate(
            scripts.APPEND,
            stream_id,
            b"" if mutation.at is None else mutation.at,
            b"" if mutation.version is None else mutation.version,
            b"" if mutation.state is None else mutation.state.value,
            scripts.text_of_error(mutation.error),
            b"" if mutation.attributes is None else scripts.text_of(mutation.attributes),
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

    async def mark_done(
        self,
        stream_id: str,
        state: StateLike = State.DONE,
        *,
        error: str | None = None,
        version: int | None = None,
    ) -> StreamInfo:
        return await self.append(
            stream_id, state=check_end_state(state), error=error, version=version
        )

    async def read(
        self, stream_id: str, offset: int = 0, *, max_bytes: int = 1_048_576
    ) -> Page:
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
        """The page with what one more script adds; None where it adds nothing, or where the
        stream has ended meanwhile: what was read is still one snapshot of it."""
        try:
            more = await self._read_some(page.info.id, page.next_offset, end - page.next_offset)
        except StreamNotFound:
            return None
        fits = more.next_offset <= end and more.records
        if not fits or is_namesake(page.info, more.info):
            return None
        return more._replace(records=page.records + more.records)

    async def _read_some(self, stream_id: str, offset: int, max_bytes: int) -> Page:
        def take(reply: Any) -> Page:
            head, lengths, *parts = reply or [b"", b""]
            info = self._parse(stream_id, head).info
            records = scripts.records_of(lengths, parts, offset)
            return Page(records, records[-1].end if records else offset, info)

        page: Page = await self._run(
            scripts.READ,
            stream_id,
            *[offset, min(max_bytes, BYTES_A_SCRIPT), RECORDS_A_SCRIPT],
            handle=take,
        )
        return page

    async def wait(self, stream_id: str, *, version: int, timeout: float) -> StreamInfo:
        bounds.check_seconds(timeout, "timeout")
        version = bounds.check_version(version)
        if timeout == 0:
            return await self.info(stream_id)  # without a subscription
        return await self.changes.wait(
            self.info,
            stream_id,
            version=version,
            timeout=timeout,
            poll_interval=self.limits.poll_interval,
        )

    async def info(self, stream_id: str) -> StreamInfo:
        bounds.check_stream_id(stream_id, self.limits)
        info: StreamInfo = await self._run(
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
        """Walks all keys of the server (SCAN), whatever the prefix: for operators, not for
        serving. Remembers the ids it has seen while it runs."""
        bounds.check_prefix(prefix)
        self._check_open()
        with _translate_errors(is_mutation=False):
            masters = await self._links.masters()
        seen: set[str] = set()
        for source in masters:
            async for found in self._scan(source, prefix):
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
        self.changes.close()
        await self._notices.aclose()
        await self._links.aclose()

    async def __aenter__(self) -> RedisStreamStore:
        self._check_open()
        with _translate_errors(is_mutation=False):
            await self._links.ask((await self._links.masters())[0], b"PING")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._is_closed or not self._links.is_open:
            return
        warnings.warn("unclosed RedisStreamStore", ResourceWarning, stacklevel=1)
        with suppress(RuntimeError):  # the loop may be closed
            self._notices.hang_up()
            self._links.hang_up()

    async def _scan(self, source: Source, prefix: str) -> AsyncIterator[set[str]]:
        """The ids that one server has under the prefix, in batches; some may come again."""
        pattern = self._keys.pattern(prefix)
        cursor = b"0"
        while True:
            with _translate_errors(is_mutation=False):
                cursor, keys = await self._links.ask(
                    source,
                    *[b"SCAN", cursor, b"MATCH", pattern, b"COUNT", KEYS_A_SCAN],
                    *[b"TYPE", b"hash"],
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
        self, script: scripts.Script, stream_id: str, *arguments: Any, handle: Handle
    ) -> Any:
        with _translate_errors(is_mutation=True):
            return await self._links.run(
                script,
                self._addressed(stream_id),
                *arguments,
                handle=handle,
                is_signed=True,
                settle=self._settle,
            )

    async def _run(
        self, script: scripts.Script, stream_id: str, *arguments: Any, handle: Handle
    ) -> Any:
        with _translate_errors(is_mutation=False):
            return await self._links.run(
                script, self._addressed(stream_id), *arguments, handle=handle
            )

    def _addressed(self, stream_id: str) -> tuple[bytes, bytes]:
        self._check_open()
        return self._keys.info(stream_id), self._keys.records(stream_id)

    def _parse(self, stream_id: str, reply: bytes) -> scripts.Reply:
        parsed = scripts.parse(stream_id, reply)
        if parsed is None:
            raise StreamNotFound(stream_id)
        return parsed

    def _check_open(self) -> None:
        if self._is_closed:
            raise InvalidRequest("the store is closed")


@contextmanager
def _translate_errors(*, is_mutation: bool) -> Iterator[None]:
    try:
        yield
    except NotSent as exc:
        raise StoreUnavailable(f"Redis: {exc}") from exc.__cause__
    except ReplyLost as exc:
        kind = OutcomeUnknown if is_mutation else StoreUnavailable
        raise kind(f"Redis: {exc}") from exc.__cause__
    except ResponseError as exc:
        if isinstance(exc, MovedError) or str(exc).startswith("MOVED"):
            raise StoreUnavailable("Redis: a cluster is opened by redis+cluster://") from exc
        # A reply, so a script that failed; each does first what may fail, and then the rest.
        text = str(exc)
        is_known = type(exc) is not ResponseError  # then it is about the server
        if _CORRUPT.search(text) and not (is_known or _UNAVAILABLE.search(text)):
            raise CorruptData(f"Redis: {text}") from exc
        raise StoreUnavailable(f"Redis: {text}") from exc
    except (RedisError, OSError, asyncio.TimeoutError) as exc:
        # Only from looking for a server: requests to one fail as above.
        raise StoreUnavailable(f"Redis: {exc or type(exc).__name__}") from exc


def _expiry(ttl: float | None, expires_at: datetime | None) -> tuple[Any, Any]:
    """Both as the scripts take them; empty for None."""
    return (
        b"" if ttl is None else repr(ttl),
        b"" if expires_at is None else bounds.to_microseconds(expires_at),
    )
