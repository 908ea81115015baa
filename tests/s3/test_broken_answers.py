"""Responses that are cut, damaged, or not from S3 are recognised, and never believed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from streamstores import (
    OutcomeUnknown,
    S3StreamStore,
    StoreUnavailable,
    StreamNotFound,
    StreamStoreError,
    StreamWriter,
)
from streamstores.backends._s3 import storage
from tests.s3.opening import set_timeout
from tests.services import PATIENCE
from tests.services.s3_objects import (
    Request,
    Response,
    StoredObject,
    Wanted,
    anything,
    error,
    get_of,
    listing,
    listing_of,
    put_of,
)
from tests.services.scripted_s3 import (
    Fault,
    ScriptedS3,
    answer_with,
    cut_after_headers,
    cut_in_the_body,
    error_with_spoilt_body,
    fail_with,
    reset_in_the_body,
    scripted_s3,
)

HTML = Response(200, {"Content-Type": "text/html"}, b"<html><body>log in first</body></html>")
OTHER_XML = Response(200, {}, b"<?xml version='1.0'?><Other><IsTruncated/></Other>")


pytestmark = [pytest.mark.usefixtures("quick_retries"), pytest.mark.long]


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with scripted_s3() as server:
        yield server


@contextlib.asynccontextmanager
async def opened(server: ScriptedS3, **options: object) -> AsyncIterator[S3StreamStore]:
    options = {"timeout": 10, "grace": 1, **options}
    async with S3StreamStore(server.store_url("p", **options)) as store:
        yield store
        server.mend()


async def written(server: ScriptedS3, count: int = 11) -> None:
    """A stream of segments, each of one byte."""
    async with opened(server) as store:
        await store.create("a")
        for _ in range(count):
            await store.append("a", b"x")


def without(name: str) -> Fault:
    """The right answer, but for one header or one element of its body."""

    def fault(exchange: object) -> None:
        response = exchange.apply()  # type: ignore[attr-defined]
        headers = {key: value for key, value in response.headers.items() if key != name}
        begin = response.body.find(f"<{name}>".encode())
        body = response.body
        if begin >= 0:
            end = body.index(f"</{name}>".encode()) + len(name) + 3
            body = body[:begin] + body[end:]
        exchange.answer(Response(response.status, headers, body))  # type: ignore[attr-defined]

    return fault


OLD = StoredObject(b"", "0", 0.0)
LISTINGS: dict[str, Fault] = {
    "cut after the headers": cut_after_headers,
    "cut in the body": cut_in_the_body,
    "reset in the body": reset_in_the_body,
    "empty": answer_with(Response(200)),
    "HTML": answer_with(HTML),
    "another document": answer_with(OTHER_XML),
    "without IsTruncated": without("IsTruncated"),
    "a key short": without("Contents"),
    "of another prefix": answer_with(listing("elsewhere/")),
    "truncated without a token": answer_with(listing("", is_truncated=True)),
    "not found": fail_with(404, "NoSuchKey"),
}


@pytest.mark.parametrize("name", LISTINGS)
async def test_an_incomplete_listing_is_unavailable(server: ScriptedS3, name: str) -> None:
    """A process that does not know the stream would see it shorter than it is."""
    await written(server)
    async with opened(server) as store:
        server.spoil(listing_of("segments/"), LISTINGS[name], times=0)
        with pytest.raises(StoreUnavailable):
            await store.info("a")
        server.spoil(listing_of(), LISTINGS[name], times=0)
        with pytest.raises(StoreUnavailable):
            _ = [info async for info in store.list()]
        with pytest.raises(StoreUnavailable):
            await store.sweep()


@pytest.mark.parametrize("name", [name for name in LISTINGS if name != "not found"])
async def test_an_incomplete_listing_is_requested_again(server: ScriptedS3, name: str) -> None:
    await written(server)
    async with opened(server) as store:
        server.spoil(listing_of("segments/"), LISTINGS[name])
        assert (await store.info("a")).tail == 11


GETS: dict[str, Fault] = {
    "cut after the headers": cut_after_headers,
    "cut in the body": cut_in_the_body,
    "reset in the body": reset_in_the_body,
    "without an ETag": without("ETag"),
    "without a date of the object": without("Last-Modified"),
    "missing, says a proxy": answer_with(HTML._replace(status=404)),
    "missing, says nobody": answer_with(Response(404)),
    "missing, cut": error_with_spoilt_body(404, "NoSuchKey", "cut"),
    "missing, reset": error_with_spoilt_body(404, "NoSuchKey", "reset"),
    "missing, stalled": error_with_spoilt_body(404, "NoSuchKey", "stalled"),
    "busy, reset": error_with_spoilt_body(503, "SlowDown", "reset"),
    "busy, stalled": error_with_spoilt_body(503, "SlowDown", "stalled"),
    "failed, cut": error_with_spoilt_body(500, "InternalError", "cut"),
    "conflict without a body": answer_with(Response(409)),
    "too many requests without a body": answer_with(Response(429)),
}


@pytest.mark.parametrize("part", ["streams/", "segments/"])
@pytest.mark.parametrize("name", GETS)
async def test_an_incomplete_object_is_unavailable(
    server: ScriptedS3, name: str, part: str
) -> None:
    await written(server)
    async with opened(server) as store:
        server.spoil(get_of(part), GETS[name], times=0)
        with pytest.raises(StoreUnavailable):
            await store.read("a")
        server.mend()
        assert (await store.read("a")).info.tail == 11


@pytest.mark.parametrize("name", GETS)
async def test_an_incomplete_object_is_requested_again(server: ScriptedS3, name: str) -> None:
    await written(server)
    async with opened(server) as store:
        server.spoil(get_of("streams/"), GETS[name])
        assert (await store.info("a")).tail == 11


async def test_a_missing_object_is_missing(server: ScriptedS3) -> None:
    async with opened(server) as store:
        with pytest.raises(StreamNotFound):
            await store.info("a")


@pytest.mark.parametrize("code", [404, 412, 409, 500, 503])
@pytest.mark.parametrize("spoilt", ["cut", "reset", "stalled"])
async def test_an_error_of_a_write_is_translated_even_if_its_body_is_damaged(
    server: ScriptedS3, code: int, spoilt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transient error of this kind is retried, and the writer goes on."""
    # For 412, which looks like a race that is lost for ever.
    monkeypatch.setattr(storage, "_ROUNDS_TIMEOUTS", 0.2)
    async with opened(server) as store:
        await store.create("a")
        fault = error_with_spoilt_body(code, "Whatever", spoilt)
        server.spoil(put_of("segments/"), fault, times=0)
        with pytest.raises((StoreUnavailable, OutcomeUnknown)):
            await store.append("a", b"x")
        server.mend()
        server.spoil(put_of("segments/"), fault)
        tail = (await store.info("a")).tail
        assert (await store.append("a", b"y")).tail == tail + 1


async def test_a_write_whose_response_has_no_etag_is_looked_up(server: ScriptedS3) -> None:
    """A proxy's page with status 200, before or after S3 did it."""
    async with opened(server) as store:
        await store.create("a")
        server.spoil(put_of("segments/"), answer_with(HTML))
        assert (await store.append("a", b"x", at=0)).tail == 1
        server.spoil(put_of("segments/"), without("ETag"))
        assert (await store.append("a", b"y", at=1)).tail == 2
        assert (await store.read("a")).records[0].data == b"x"


async def test_a_removal_that_s3_did_not_confirm_is_repeated(server: ScriptedS3) -> None:
    await written(server)
    async with opened(server) as store:
        await store.delete("a")

        def is_removal(request: Request) -> bool:
            return request.method == "POST" and "delete" in request.query

        server.objects.quirks.clock_ahead_seconds = 100
        with pytest.raises(StreamNotFound):
            await store.info("a")  # the store learns the time
        server.spoil(is_removal, answer_with(Response(200)), times=0)
        with pytest.raises(StoreUnavailable):
            await store.sweep()
        server.mend()
        await store.sweep()
        assert not server.keys("segments/")


@pytest.mark.parametrize("fault", [answer_with(Response(200)), answer_with(HTML)])
async def test_an_upload_that_s3_did_not_begin_is_not_used(
    server: ScriptedS3, fault: Fault
) -> None:
    async with opened(server) as store:
        chunk = b"x" * 1_048_576
        await store.create("a")
        await store.append("a", *[chunk] * 10, state="done")
        await store._packer.idle()
        packed = server.keys("packed/")
        assert len(packed) == 1
        await store.create("b")
        server.spoil(lambda request: "uploads" in request.query, fault, times=0)
        await store.append("b", *[chunk] * 10, state="done")
        await store._packer.idle()
        assert server.keys("packed/") == packed
        assert (await store.read("b", 9 * 1_048_576)).records[0].data == chunk


NO_ANSWERS: dict[str, Fault] = {
    **{f"LIST {name}": fault for name, fault in LISTINGS.items()},
    **{f"GET {name}": fault for name, fault in GETS.items()},
}
KINDS: dict[str, Wanted] = {
    "anything": anything,
    "reads": lambda request: request.method == "GET",
}


@pytest.mark.parametrize("name", NO_ANSWERS)
async def test_no_exception_of_a_driver_leaks(server: ScriptedS3, name: str) -> None:
    """Every kind of request, with every kind of damaged response."""
    await written(server, 2)
    async with opened(server, timeout=PATIENCE) as store:
        await store.info("a")
        set_timeout(store, 1.5)
        server.spoil(anything, NO_ANSWERS[name], times=0)
        calls = [
            store.info("a"),
            store.read("a"),
            store.append("a", b"y"),
            store.create("b"),
            store.expire("a", 60),
            store.delete("a"),
            store.sweep(),
        ]
        for call in calls:
            with contextlib.suppress(StreamStoreError):
                await call


async def test_a_writer_outlives_spoilt_errors(server: ScriptedS3) -> None:
    async with opened(server) as store:
        info = await store.create("a")
        async with StreamWriter(store, "a", info=info, retry_for=30) as writer:
            for number, spoilt in enumerate(["reset", "cut", "stalled"] * 2):
                fault = error_with_spoilt_body(503, "SlowDown", spoilt)
                server.spoil(anything, fault, times=3)
                await writer.write(b"%d" % number)
                await writer.flush()
        page = await store.read("a")
        assert b"".join(record.data for record in page.records) == b"012345"


def test_an_error_has_a_body() -> None:
    assert b"<Code>X</Code>" in error(400, "X").body
