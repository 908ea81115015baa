"""URLs, opening and closing, and the errors if the bucket cannot be used."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import warnings

import pytest

from streamstores import (
    InvalidRequest,
    Limits,
    S3StreamStore,
    StoreUnavailable,
    open_store,
)
from streamstores.backends._s3.s3_options import parse_s3_url
from tests.s3.conftest import Place
from tests.s3.recording_client import RecordingClient
from tests.services import free_port
from tests.services.s3 import S3Server, shared

BAD_URLS = [
    "s3://",
    "s3:///prefix",
    "http://bucket/prefix",
    "s3://key:secret@bucket/prefix",
    "s3://bucket:9000/prefix",
    "s3://bucket--use1-az4--x-s3/prefix",
    "s3://bucket/a//b",
    "s3://bucket/../b",
    "s3://bucket/" + "p" * 161,
    "s3://bucket/prefix#fragment",
    "s3://bucket/prefix?nonsense=1",
    "s3://bucket/prefix?region",
    "s3://bucket/prefix?region=",
    "s3://bucket/prefix?timeout=1&timeout=2",
    "s3://bucket/prefix?timeout=0",
    "s3://bucket/prefix?timeout=soon",
    "s3://bucket/prefix?timeout=nan",
    "s3://bucket/prefix?timeout=inf",
    "s3://bucket/prefix?poll_min=2",
    "s3://bucket/prefix?max_connections=0",
    "s3://bucket/prefix?max_connections=1.5",
    "s3://bucket/prefix?path_style=perhaps",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        S3StreamStore(url)


def test_options_are_taken_from_the_url() -> None:
    options = parse_s3_url(
        "s3://b/p/q/?endpoint_url=http%3A%2F%2Fh%3A9&linger=0&path_style=true"
    )
    assert (options.bucket, options.prefix) == ("b", "p/q/")
    assert (options.endpoint_url, options.linger, options.path_style) == ("http://h:9", 0, True)


def test_the_linger_is_suggested_to_writers() -> None:
    assert S3StreamStore("s3://bucket/p").limits.linger == 0.2
    assert S3StreamStore("s3://bucket/p?linger=0.5").limits.linger == 0.5
    assert S3StreamStore("s3://bucket/p", limits=Limits(linger=3)).limits.linger == 3


def test_a_secret_is_in_no_repr() -> None:
    store = S3StreamStore("s3://bucket/p?access_key=AKIA&secret_key=hush&session_token=psst")
    assert not any(word in repr(store) for word in ("AKIA", "hush", "psst"))


def test_an_option_that_a_client_decides_is_refused_with_a_client(server: S3Server) -> None:
    with pytest.raises(InvalidRequest, match="region"):
        S3StreamStore("s3://bucket/p?region=eu-west-1", client=object())


async def test_open_store_makes_an_s3_store(server: S3Server) -> None:
    async with open_store(server.url()) as store:
        assert isinstance(store, S3StreamStore)
        assert (await store.create("a")).tail == 0


async def test_a_server_that_ignores_conditions_is_refused() -> None:
    deaf = shared(conditions=False)
    store = S3StreamStore(deaf.url("deaf"))
    with pytest.raises(InvalidRequest, match="If-None-Match"):
        await store.create("a")
    await store.aclose()
    client = deaf.client()
    assert "Contents" not in client.list_objects_v2(Bucket=deaf.bucket)
    client.close()


async def test_opening_leaves_nothing_behind(place: Place) -> None:
    await place.store()
    assert place.keys() == []


async def test_a_missing_bucket_is_named(server: S3Server) -> None:
    store = S3StreamStore(server._replace(bucket="no-such-bucket").url())
    with pytest.raises(StoreUnavailable, match=r"bucket does not exist.*no-such-bucket"):
        await store.info("a")
    await store.aclose()


async def test_the_reason_why_access_is_denied_is_passed_on(place: Place) -> None:
    recording = RecordingClient(place.server)
    recording.die_at(0)
    store = S3StreamStore(f"s3://{place.server.bucket}/x", client=recording)
    with pytest.raises(StoreUnavailable, match="AccessDenied"):
        await store.info("a")
    await store.aclose()
    recording.close()


async def test_missing_credentials_are_unavailable(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    store = S3StreamStore(server._replace(access_key="", secret_key="").url())
    with pytest.raises(StoreUnavailable, match="credentials"):
        await store.info("a")
    await store.aclose()


async def test_a_server_that_is_down_is_asked_again_by_the_next_call(server: S3Server) -> None:
    url = server._replace(endpoint_url=f"http://127.0.0.1:{free_port()}").url(timeout=2)
    store = S3StreamStore(url)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.create("a")
    await store.aclose()


@pytest.mark.parametrize("url", ["not a url", "http://[", "ftp://host"])
async def test_a_wrong_endpoint_is_unavailable(server: S3Server, url: str) -> None:
    store = S3StreamStore(server._replace(endpoint_url=url).url(timeout=1))
    with pytest.raises(StoreUnavailable):
        await store.info("a")
    await store.aclose()


async def test_a_closed_store_refuses_calls(place: Place) -> None:
    store = await place.store()
    await store.aclose()
    await store.aclose()
    with pytest.raises(InvalidRequest, match="closed"):
        await store.info("a")


async def test_a_client_that_was_passed_in_stays_open(place: Place) -> None:
    store, recording = await place.recorded()
    await store.create("a")
    await store.aclose()
    assert recording.list_objects_v2(Bucket=place.server.bucket, Prefix=place.prefix)[
        "Contents"
    ]


async def test_an_unclosed_store_warns(place: Place) -> None:
    store = S3StreamStore(place.url())
    await store.create("a")
    bucket = store._storage.bucket
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del store
        gc.collect()
    await bucket.aclose(1)
    assert any("unclosed <S3StreamStore" in str(each.message) for each in caught)


async def test_foreign_objects_below_the_prefix_do_no_harm(place: Place) -> None:
    store = await place.store()
    await store.create("a")

    for key in ("streams/", "streams/x.txt", "due/hello", "due/x/stream/y", "probe/z", "other"):
        place.put(key, b"")
    assert await store.sweep() == 0
    assert [info.id async for info in store.list()] == ["a"]


def test_the_policy_grants_what_the_store_needs() -> None:
    objects, bucket = S3StreamStore("s3://b/p").iam_policy()["Statement"]
    assert objects["Resource"] == "arn:aws:s3:::b/p/*"
    assert bucket == {
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": "arn:aws:s3:::b",
    }


async def test_s3_accepts_the_lifecycle_rule(server: S3Server) -> None:
    client = server.client()
    rule = S3StreamStore("s3://b/p").lifecycle_rule()
    name = "with-a-rule"
    client.create_bucket(Bucket=name)
    client.put_bucket_lifecycle_configuration(
        Bucket=name, LifecycleConfiguration={"Rules": [rule]}
    )
    found = client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    client.delete_bucket(Bucket=name)
    client.close()
    assert [each["ID"] for each in found] == ["streamstores-p"]


async def test_a_frozen_server_is_given_up_on(server: S3Server) -> None:
    """It accepts the connection and never answers."""
    frozen = socket.create_server(("127.0.0.1", 0))
    endpoint_url = f"http://127.0.0.1:{frozen.getsockname()[1]}"
    store = S3StreamStore(server._replace(endpoint_url=endpoint_url).url(timeout=1))
    with pytest.raises(StoreUnavailable):
        await store.info("a")
    await store.aclose()
    frozen.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_is_told_to_open_a_store_of_its_own(place: Place) -> None:
    store = await place.store()
    await store.create("a")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _use_an_inherited_store(store)
            code = 0
        finally:
            os._exit(code)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (await store.append("a", b"1")).tail == 1


def _use_an_inherited_store(store: S3StreamStore) -> None:
    calls = [
        lambda: store.info("a"),
        lambda: store.append("a", b"x"),
        lambda: store.wait("a", version=0, timeout=1),
        store.sweep,
        lambda: store.list().__anext__(),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest, match="fork"):
            asyncio.run(asyncio.wait_for(call(), 5))  # type: ignore[operator]
    asyncio.run(asyncio.wait_for(store.aclose(), 5))
    store.__del__()
