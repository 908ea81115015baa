"""What a Redis URL and the arguments of the store may say, and where keys end up."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from redis import Redis as SyncRedis
from streamstores import InvalidRequest, RedisStreamStore, open_store
from streamstores.backends._redis.keys import Keys
from streamstores.backends._redis.settings import settings_of
from streamstores.backends._redis.urls import parse_url
from tests.services.redis import shared, with_options, with_own_prefix


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost?max_connections=3",
        "redis://localhost?sentinel_password=x",
        "redis://localhost?timeout=soon",
        "redis://localhost?timeout=0",
        "redis://localhost?timeout=inf",
        "redis://localhost?tls=1",
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
def test_a_url_that_cannot_be_meant_is_refused_before_anything_connects(url):
    with pytest.raises(InvalidRequest):
        open_store(url)


def test_a_url_says_where_who_and_how():
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


def test_tls_is_verified_unless_the_url_says_otherwise():
    assert parse_url("rediss://host").connection["ssl_cert_reqs"] == "required"
    unverified = parse_url("rediss://host?ssl_verify=false").connection
    assert unverified["ssl_cert_reqs"] == "none"
    assert unverified["ssl_check_hostname"] is False


def test_an_argument_goes_before_the_url_and_the_url_before_the_default():
    url = "redis://localhost?prefix=url&timeout=2"
    assert settings_of(url, "argument", None, None).keys.info("a") == b"argument:{a}"
    assert settings_of(url, None, None, None).keys.info("a") == b"url:{a}"
    assert settings_of(url, None, None, None).timeout == 2.0
    assert settings_of("redis://localhost", None, None, None).timeout == 5.0


@pytest.mark.parametrize("client", [SyncRedis(), object(), None])
def test_anything_but_an_asyncio_client_is_refused(client):
    with pytest.raises(InvalidRequest):
        RedisStreamStore(client)


@pytest.mark.parametrize("stream_id", ["a", "{a}", "}{", "%7B", "a}b", "*?[x]", "../é😀"])
def test_every_id_has_keys_of_its_own_that_say_it_back(stream_id):
    keys = Keys("p")
    info = keys.info(stream_id)
    assert keys.stream_id(info) == stream_id
    assert info.count(b"{") == info.count(b"}") == 1
    assert keys.records(stream_id).startswith(info)


async def test_prefixes_and_databases_keep_stores_apart():
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


async def test_all_keys_expire_by_themselves_and_stay_where_the_stream_is_kept():
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
