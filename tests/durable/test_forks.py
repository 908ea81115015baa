"""Forks: their independence of the source, and what crashes leave."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from streamstores import MemoryStreamStore, StoreUnavailable, StreamStore, open_store
from streamstores.limits import Limits
from tests.durable.client import CLOSED, JSON, TEXT, Client, at, refusal
from tests.durable.conftest import Serve
from tests.wrapping import Wrapping


class Breaking(Wrapping):
    """Is unavailable from the n-th change on, as if the process had died then."""

    def __init__(self, inner: StreamStore) -> None:
        super().__init__(inner)
        self.left: int | None = None

    def _count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise StoreUnavailable("the process is dead")

    async def create(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        self._count()
        return await super().create(stream_id, *chunks, **options)

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
        self._count()
        return await super().append(stream_id, *chunks, **options)

    async def expire(self, stream_id: str, ttl: float | None = None, **options: Any) -> Any:
        self._count()
        return await super().expire(stream_id, ttl, **options)

    async def delete(self, stream_id: str) -> None:
        self._count()
        await super().delete(stream_id)


async def ids(store: StreamStore) -> set[str]:
    return {info.id async for info in store.list()}


async def test_a_fork_has_the_records_of_its_source_in_its_place(serve: Serve) -> None:
    client = await serve()
    await client.put("s", b"[1,2,3]", **JSON)
    fork = await client.fork("f", "s", b"[9]", **{"Stream-Fork-Offset": at(2)})
    assert fork.status_code == 201
    assert (await client.get("f")).json() == [1, 2, 9]
    assert (await client.get("f", offset=at(1))).json() == [2, 9]
    assert (await client.get("s")).json() == [1, 2, 3]


async def test_a_fork_of_more_than_one_append_takes(serve: Serve) -> None:
    async with MemoryStreamStore(limits=Limits(append_records=7)) as store:
        client = await serve(store)
        await client.put("s", b"[]", **{**JSON, "Stream-TTL": "500"})
        for n in range(20):
            await client.post("s", f"[{n},{n},{n}]".encode(), **JSON)
        headers = {"Stream-Fork-Sub-Offset": "40", "Stream-Fork-Offset": at(0), **CLOSED}
        assert (await client.fork("f", "s", b"[99]", **headers)).status_code == 201
        assert (await client.get("f")).json() == [n // 3 for n in range(40)] + [99]
        info = await store.info("f")
        assert (info.ttl, info.state) == (500, "done")
        assert (await client.fork("f", "s", **headers)).status_code == 200


async def test_a_long_fork_of_a_closed_stream_on_every_store(
    serve: Serve, store_url: str
) -> None:
    async with open_store(store_url) as store:
        client = await serve(store)
        await client.put("s", b"a" * 4_000_000, **{"Stream-TTL": "500"})
        await client.post("s", b"b" * 4_000_000)
        await client.post("s", b"c" * 1000, **CLOSED)
        fork, again = await asyncio.gather(client.fork("f", "s", b"d"), client.fork("f", "s"))
        assert 201 in (fork.status_code, again.status_code)
        assert {fork.status_code, again.status_code} <= {200, 201, 409, 503}
        assert (await client.fork("f", "s")).status_code == 200
        assert (await client.post("f", b"e")).status_code == 204
        text = await client.text("f")
        assert text.rstrip("de") == "a" * 4_000_000 + "b" * 4_000_000 + "c" * 1000
        assert text[-2:] in ("de", "ce")
        assert (await store.info("f")).ttl == 500


@pytest.mark.parametrize("steps", range(7))
async def test_a_copy_cut_short_is_never_seen_and_can_be_made_again(
    serve: Serve, steps: int
) -> None:
    async with MemoryStreamStore(limits=Limits(append_records=10)) as inner:
        store = Breaking(inner)
        client, other = await serve(store), await serve(inner)
        await client.put("s", b"[]", **JSON)
        for n in range(35):
            await client.post("s", b"%d" % n, **JSON)
        store.left = steps  # two to enter it, then begun, twice added to, ended, kept
        assert refusal(await client.fork("f", "s")) == (503, "store_unavailable")
        if steps < 6:
            for method in ("GET", "HEAD", "POST", "DELETE"):
                response = await other.ask(method, "f", content=b"1", headers=JSON)
                assert response.status_code == 404
        if 3 <= steps < 6:
            assert refusal(await other.fork("f", "s")) == (503, "being_copied")
            assert (await inner.info("f")).ttl == 60
            await inner.delete("f")  # as its ttl would
        again = await other.fork("f", "s")
        assert again.status_code == (200 if steps == 6 else 201)
        assert (await other.get("f")).json() == [*range(35)]
        assert (await inner.info("f")).expires_at is None


async def test_a_source_that_grows_or_ends_while_it_is_copied(serve: Serve) -> None:
    class Slow(Wrapping):
        before_second_page = "grow"

        async def read(self, stream_id: str, offset: int = 0, **options: Any) -> Any:
            if offset and stream_id == "s" and self.before_second_page == "grow":
                await self.inner.append("s", b"more")
            elif offset and stream_id == "s":
                await self.inner.delete("s")
                await self.inner.create("s", *[b"y" * 1_000_000] * 4)
            return await super().read(stream_id, offset, **options)

    async with MemoryStreamStore() as inner:
        store = Slow(inner)
        client = await serve(store)
        await client.put("s", b"x" * 3_000_000)
        assert (await client.fork("f", "s")).status_code == 201
        assert await client.text("f") == "x" * 3_000_000
        store.before_second_page = "end"
        assert refusal(await client.fork("g", "s")) == (404, "source_not_found")
        assert (await client.get("g")).status_code == 404


async def test_a_fork_lives_on_when_its_source_expires(serve: Serve) -> None:
    async with MemoryStreamStore() as store:
        client = await serve(store)
        await client.put("s", b"x", **{"Stream-TTL": "1000"})
        await client.fork("f", "s", **{"Stream-TTL": "2000"})
        await store.expire("s", 0.001)
        while (await client.head("s")).status_code == 200:
            await asyncio.sleep(0.001)
        assert (await client.head("s")).status_code == 404
        assert await client.text("f") == "x"


async def chain(client: Client) -> None:
    await client.put("s", b"x")
    await client.fork("f", "s")
    await client.fork("g", "f")


async def test_a_deleted_source_leaves_nothing_after_its_last_fork(
    serve: Serve,
) -> None:
    async with MemoryStreamStore() as store:
        client = await serve(store)
        await chain(client)
        for path in ("s", "f"):
            assert (await client.delete(path)).status_code == 204
            assert (await client.head(path)).status_code == 410
            assert refusal(await client.put(path)) == (409, "gone")
            assert refusal(await client.fork("h", path)) == (409, "source_gone")
        assert await client.text("g") == "x"
        assert (await client.delete("g")).status_code == 204
        assert await ids(store) == set()


@pytest.mark.parametrize("steps", range(9))
async def test_a_crash_in_the_middle_of_deleting_loses_no_living_byte_and_heals(
    serve: Serve, steps: int
) -> None:
    async with MemoryStreamStore() as inner:
        store = Breaking(inner)
        client, other = await serve(store), await serve(inner)
        await chain(client)
        store.left = steps
        for path in ("s", "f"):
            await client.delete(path)
        store.left = None if steps < 6 else store.left
        assert await other.text("g") == "x"
        for path in ("s", "f"):
            assert (await other.head(path)).status_code in (200, 404, 410)
            await other.delete(path)
        assert await other.text("g") == "x"
        store.left = steps
        await client.delete("g")
        await other.delete("g")
        for path in ("s", "f", "g"):
            assert (await other.head(path)).status_code == 404


async def test_a_source_is_free_again_when_its_forks_have_expired(serve: Serve) -> None:
    async with MemoryStreamStore() as store:
        client = await serve(store)
        await client.put("s", b"old")
        await client.fork("f", "s", **{"Stream-TTL": "1000"})
        await client.delete("s")
        assert refusal(await client.put("s")) == (409, "gone")
        await store.delete("f")  # as its ttl would
        assert (await client.put("s", b"new")).status_code == 201
        assert await client.text("s") == "new"


async def test_the_removal_of_a_tombstone_never_hits_a_new_stream_in_its_place(
    serve: Serve,
) -> None:
    class Late(Wrapping):
        """Lets others change the stream just before it does so itself."""

        overtaking: Any = None

        async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> Any:
            overtaking, self.overtaking = self.overtaking, None
            if overtaking is not None:
                await overtaking()
            return await super().append(stream_id, *chunks, **options)

    async with MemoryStreamStore() as inner:
        store = Late(inner)
        late, other = await serve(store), await serve(inner)
        for method, expected in (("GET", 404), ("HEAD", 404), ("PUT", 200), ("DELETE", 404)):
            await other.put("s", b"old")
            await other.fork("f", "s")
            await other.delete("s")
            await inner.delete("f")  # as its ttl would

            async def overtaking() -> None:
                assert (await other.put("s", b"new")).status_code == 201

            store.overtaking = overtaking
            response = await late.ask(method, "s", headers=TEXT)
            assert response.status_code == expected
            assert store.overtaking is None
            assert await other.text("s") == "new"
            await other.delete("s")


async def test_a_remover_that_died_is_replaced(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MemoryStreamStore() as inner:
        store = Breaking(inner)
        dying, client = await serve(store), await serve(inner)
        await client.put("s", b"old")
        await client.fork("f", "s")
        await client.delete("s")
        await inner.delete("f")
        store.left = 2  # it tries to create, and says that it removes
        assert (await dying.put("s")).status_code == 503
        assert (await client.head("s")).status_code == 404
        assert refusal(await client.put("s")) == (503, "being_removed")
        monkeypatch.setattr("streamstores.http.durable.attributes._REMOVAL_SECONDS", 0)
        assert (await client.put("s", b"new")).status_code == 201
        assert await client.text("s") == "new"


async def test_a_namesake_of_a_fork_keeps_no_source(serve: Serve) -> None:
    async with MemoryStreamStore() as store:
        client = await serve(store)
        await client.put("s", b"x")
        await client.fork("f", "s")
        await store.delete("f")
        await client.put("f", b"another")
        assert (await client.delete("s")).status_code == 204
        assert (await client.head("s")).status_code == 404


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Stream-Fork-Offset": "x"}, (400, "invalid_offset")),
        ({"Stream-Fork-Offset": at(3)}, (400, "invalid_fork_offset")),
        ({"Stream-Fork-Sub-Offset": "1"}, (400, "invalid_fork_offset")),
        ({"Stream-Fork-Sub-Offset": "-1"}, (400, "invalid_sub_offset")),
        ({"Stream-Forked-From": "/none"}, (404, "source_not_found")),
        ({"Stream-Forked-From": "s"}, (404, "source_not_found")),
        ({"Stream-Forked-From": "/__ds/forks/x"}, (404, "reserved_path")),
        ({"Content-Type": "text/html"}, (409, "content_type_mismatch")),
    ],
)
async def test_a_refused_fork_leaves_nothing(
    serve: Serve, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    async with MemoryStreamStore() as store:
        client = await serve(store)
        await client.put("s", b"ab")
        assert refusal(await client.fork("f", "s", **headers)) == expected
        assert await ids(store) == {"s"}
