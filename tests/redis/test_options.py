"""What a Redis URL and the arguments of the store may say, and where keys end up."""

from __future__ import annotations

import asyncio
from inspect import signature

import pytest
from redis.asyncio import Redis, Sentinel
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import SSLConnection

from redis import Redis as SyncRedis
from streamstores import InvalidRequest, RedisStreamStore, follow, open_store
from streamstores.backends._redis.configuration import configure
from streamstores.backends._redis.stream_keys import StreamKeys
from streamstores.backends._redis.urls import parse_url
from tests.redis.helpers import everything, server_or_skip
from tests.services.redis import OLDEST, VALKEY, shared, with_options, with_own_prefix


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost?max_connections=3",
        "redis://localhost?sentinel_password=x",
        "redis://localhost?timeout=soon",
        "redis://localhost?timeout=0",
        "redis://localhost?timeout=inf",
        "redis://localhost?tls=perhaps",
        "redis://localhost?timeout=1&timeout=2",
        "redis://localhost?prefix",
        "redis://localhost#1",
        "redis://localhost/0?prefix=%00",
        "redis://localhost?ssl_ca_certs=/ca.pem",
        "redis://localhost?durability=perhaps",
        "redis://localhost?prefix=",
        "redis://localhost?prefix={a}",
        "redis://localhost/one",
        "redis://localhost/1/2",
        "redis://localhost:port",
        "redis://one,two",
        "redis+sentinel://localhost",
        "redis+sentinel://localhost/main/x",
        "redis+cluster://localhost/1",
        "redis+cluster://localhost?db=1",
    ],
)
def test_a_wrong_url_is_refused_before_anything_connects(url):
    with pytest.raises(InvalidRequest):
        open_store(url)


def test_a_url_gives_hosts_credentials_and_options():
    address = parse_url(
        "redis+sentinel://us%40er:p%2Fw@one,two:7000,[::1]:7001/main/3"
        "?sentinel_password=s&tls=true&ssl_ca_certs=/ca.pem&client_name=c&prefix=p&timeout=2.5"
    )
    assert address.hosts == [("one", 26379), ("two", 7000), ("::1", 7001)]
    assert address.service == "main"
    assert address.sentinel == {"password": "s"}
    assert address.store == {"prefix": "p", "timeout": 2.5}
    assert address.connection == {
        "db": 3,
        "username": "us@er",
        "password": "p/w",
        "client_name": "c",
        "ssl": True,
        "ssl_ca_certs": "/ca.pem",
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
    }


def test_certificates_are_checked_unless_the_url_forbids_it():
    assert parse_url("rediss://host").connection["ssl_cert_reqs"] == "required"
    unverified = parse_url("rediss://host?ssl_verify=false").connection
    assert unverified["ssl_cert_reqs"] == "none"
    assert unverified["ssl_check_hostname"] is False


def test_an_argument_overrides_the_url_which_overrides_the_default():
    url = "redis://localhost?prefix=url&timeout=2"
    assert configure(url, "argument", None, None).keys.info("a") == b"argument:{a}"
    assert configure(url, None, None, None).keys.info("a") == b"url:{a}"
    assert configure(url, None, None, None).timeout == 2.0
    assert configure("redis://localhost", None, None, None).timeout == 5.0


def test_the_password_of_a_key_file_is_passed_on_or_refused():
    url = "rediss://host?ssl_keyfile=/key.pem&ssl_keyfile_password=secret"
    if "ssl_password" in signature(SSLConnection.__init__).parameters:
        client = configure(url, None, None, None).client
        assert client.connection_pool.connection_kwargs["ssl_password"] == "secret"
    else:
        with pytest.raises(InvalidRequest, match="ssl_keyfile_password"):
            configure(url, None, None, None)
    with pytest.raises(InvalidRequest, match="ssl_keyfile_password"):
        open_store("redis+cluster://host?tls=true&ssl_keyfile_password=secret")


@pytest.mark.parametrize("client", [SyncRedis(), object(), None])
def test_anything_but_an_asyncio_client_is_refused(client):
    with pytest.raises(InvalidRequest):
        RedisStreamStore(client)


@pytest.mark.parametrize("stream_id", ["a", "{a}", "}{", "%7B", "a}b", "*?[x]", "../é😀"])
def test_every_id_is_read_back_from_its_key(stream_id):
    keys = StreamKeys("p")
    info = keys.info(stream_id)
    assert keys.stream_id(info) == stream_id
    assert info.count(b"{") == info.count(b"}") == 1
    assert keys.records(stream_id).startswith(info)


async def test_stores_with_different_prefixes_or_databases_share_nothing():
    url = shared("valkey")
    mine, other = with_own_prefix(url), with_own_prefix(url)
    urls = [mine, other, with_options(mine, db=1)]
    for number, each in enumerate(urls):
        async with open_store(each) as store:
            await store.create("a*", b"%d" % number, ttl=600)
    for number, each in enumerate(urls):
        async with open_store(each) as store:
            infos = [info async for info in store.list("a*")]
            assert [info.id for info in infos] == ["a*"]
            assert (await store.read("a*")).records[0].data == b"%d" % number
            await store.delete("a*")


async def test_both_keys_of_a_stream_expire_at_its_expiry_or_never():
    url = with_own_prefix(shared("valkey"))
    prefix = url.rpartition("=")[2]
    keys = [f"{prefix}:{{a}}", f"{prefix}:{{a}}:records"]
    async with open_store(url) as store, Redis.from_url(url.split("?")[0]) as redis:
        info = await store.create("a", ttl=600)
        info = await store.append("a", b"first record")
        assert info.expires_at is not None
        milliseconds = -(-info.expires_at.timestamp() * 1000 // 1)
        assert [await redis.pexpiretime(key) for key in keys] == [milliseconds] * 2
        await store.expire("a")
        assert [await redis.ttl(key) for key in keys] == [-1, -1]
        await store.delete("a")
        assert await redis.exists(*keys) == 0


async def test_a_client_that_decodes_is_refused():
    client = Redis(decode_responses=True)
    with pytest.raises(InvalidRequest, match="decode_responses"):
        RedisStreamStore(client)
    await client.aclose()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:secret@host:7/2", "redis://host:7/2"),
        ("rediss://:secret@host?client_name=secret", "rediss://host:6379/0"),
        (
            "redis+sentinel://u:secret@one,two/main?sentinel_password=secret",
            "redis+sentinel://one:26379,two:26379/main/0",
        ),
        ("redis+cluster://u:secret@one,two:7", "redis+cluster://one:6379,two:7"),
    ],
)
async def test_the_repr_names_the_server_without_secrets(url, shown):
    store = RedisStreamStore(url, prefix="p", durability="replica")
    assert repr(store) == f"<RedisStreamStore {shown} prefix='p' durability='replica'>"
    await store.aclose()


async def test_the_repr_of_a_store_on_a_client_has_no_secrets_either():
    clients = [
        Redis(host="host", port=7, password="secret", username="secret"),
        Redis(unix_socket_path="/run/redis.sock", password="secret"),
        RedisCluster(host="host", port=7, password="secret"),
        Sentinel([("one", 26379)], password="secret").master_for("main"),
    ]
    shown = [
        "redis://host:7/0",
        "redis:///run/redis.sock/0",
        "redis+cluster://host:7",
        "redis+sentinel://main/0",
    ]
    for client, place in zip(clients, shown, strict=True):
        text = repr(RedisStreamStore(client))
        assert place in text
        assert "secret" not in text
        await client.aclose()


@pytest.mark.parametrize("kind", [VALKEY, OLDEST])
async def test_the_permissions_in_the_guide_are_enough(kind):
    rules = ["on", ">secret", "resetchannels", "~streams:*", "&streams:*"]
    rules += [
        "+@read",
        "+@write",
        "+@scripting",
        "+@pubsub",
        "+@connection",
        "+time",
        "+wait",
        "+info",
    ]
    with server_or_skip(kind, "--appendonly", "yes") as server:
        server.ask("ACL", "SETUSER", "app", *rules)
        url = f"redis://app:secret@{server.address}"
        durability = "async"
        if kind == VALKEY:
            server.ask("ACL", "SETUSER", "app", "+waitaof")
            durability = "disk"
        async with RedisStreamStore(url, prefix="streams", durability=durability) as store:
            await store.create("a", ttl=60)
            following = asyncio.create_task(everything(follow(store, "a")))
            await store.append("a", b"x", state="done")
            assert await following == b"x"
            assert [info.id async for info in store.list()] == ["a"]
            await store.delete("a")
