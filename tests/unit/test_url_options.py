"""Store URLs: what their options may say, and what is shown of them."""

from __future__ import annotations

import pytest

from streamstores import InvalidRequest, MemoryStreamStore
from streamstores.url_options import (
    count,
    flag,
    merged,
    one_of,
    redacted,
    seconds,
    split_store_url,
    text,
)

OPTIONS = {
    "prefix": text,
    "secret_key": text,
    "tls": flag,
    "timeout": seconds,
    "readers": count,
    "durability": one_of("process", "power"),
}


def split(url: str, **others: object):
    return split_store_url(url, schemes=["x", "xs"], options=OPTIONS, passed_on=["sslmode"])


def test_options_are_read_as_their_types():
    url = split("xs://u:p@host/a%20b?prefix=%C3%A9&tls=1&timeout=.5&readers=2&durability=power")
    assert url.options == {
        "prefix": "é",
        "tls": True,
        "timeout": 0.5,
        "readers": 2,
        "durability": "power",
    }
    assert (url.parts.scheme, url.parts.hostname, url.path) == ("xs", "host", "/a b")
    assert url.parts.geturl() == "xs://u:p@host/a%20b"


@pytest.mark.parametrize(
    ("written", "means"),
    [
        *[(each, True) for each in ("true", "True", "1", "yes")],
        *[(each, False) for each in ("false", "FALSE", "0", "no")],
    ],
)
def test_a_flag_is_written_in_each_of_the_common_ways(written: str, means: bool):
    assert split(f"x://h?tls={written}").options == {"tls": means}


def test_a_plus_sign_is_a_plus_sign():
    assert split("x://h?secret_key=a+b/c=").options == {"secret_key": "a+b/c="}


def test_options_of_the_driver_stay_in_the_url_as_written():
    url = split("x://h/db?timeout=1&sslmode=verify%2Dfull")
    assert url.options == {"timeout": 1.0}
    assert url.parts.geturl() == "x://h/db?sslmode=verify%2Dfull"


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("colour=red", "'colour'"),
        ("Timeout=1", "'Timeout'"),
        ("timeout=1&timeout=2", "'timeout'"),
        ("timeout=1&time%6Fut=1", "'timeout'"),
        ("sslmode=a&sslmode=a", "'sslmode'"),
        ("timeout", "'timeout'"),
        ("timeout=", "'timeout'"),
        ("=1", "''"),
        ("timeout=1&", "''"),
        ("&timeout=1", "''"),
        *[
            (f"timeout={each}", "'timeout'")
            for each in ("soon", "-1", "nan", "inf", "1_0", "1s")
        ],
        *[(f"readers={each}", "'readers'") for each in ("many", "-1", "1.5", "1_0", "%D9%A1")],
        *[(f"tls={each}", "'tls'") for each in ("perhaps", "2", "on", "")],
        ("prefix=", "'prefix'"),
        ("durability=disk", "'durability'"),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_the_password_is_not_shown(
    query: str, names: str
):
    with pytest.raises(InvalidRequest) as caught:
        split(f"x://user:hush@host/path?{query}")
    assert names in str(caught.value)
    assert "x://user:***@host/path" in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "x:", "x:h", "y://h", "x://[::1", "x://a,[::1", "memory://"),
        *("x://h#f", "x://h?tls=1#f", "x://h#", "x://u:hu#sh@h/p"),
        *("x://h/%00", "x://h?prefix=%00", "x://h?prefix=a%00b", "x://h?%00=1", "x://\0"),
        *("x://h/%FF", "x://h?prefix=%FF", "x://h\n", "x://h/a\tb"),
        *(None, 1, b"x://h"),
    ],
)
def test_a_url_that_is_not_of_this_store_is_refused(url: object):
    with pytest.raises(InvalidRequest):
        split(url)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("memory://", "memory://"),
        ("sqlite:////a/b.db?durability=power", "sqlite:////a/b.db?durability=power"),
        ("redis://user:hush@host:1/0?timeout=2", "redis://user:***@host:1/0?timeout=2"),
        ("redis://:hush@host", "redis://:***@host"),
        ("redis://user@host", "redis://user@host"),
        ("redis://u:hu@sh@host", "redis://u:***@host"),
        ("redis://u:hu/sh@host/1", "redis://u:***@host/1"),
        ("redis://u:hu?sh@host/1", "redis://u:***@host/1"),
        ("redis://u:hu#sh@host/1", "redis://u:***@host/1"),
        ("redis+sentinel://u:hush@one:1,two:2/m", "redis+sentinel://u:***@one:1,two:2/m"),
        ("redis+cluster://u:hush@one,[::1]:2", "redis+cluster://u:***@one,[::1]:2"),
        ("redis://h?sentinel_password=hush&db=1", "redis://h?sentinel_password=***&db=1"),
        ("postgresql://h/x?password=hush&sslmode=a", "postgresql://h/x?password=***&sslmode=a"),
        ("s3://b/p?secret_key=hu+sh&access_key=hush", "s3://b/p?secret_key=***&access_key=***"),
        ("s3://b?endpoint_url=http%3A%2F%2Fa%3Ahush%40h", "s3://b?endpoint_url=***"),
        ("x://u:hush@[::1/x", "x://u:***@[::1/x"),
        ("no url at all", "no url at all"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str):
    assert redacted(url) == shown


def test_an_argument_goes_before_the_url_and_the_url_before_the_default():
    defaults = {"a": 1, "b": 1, "c": 1}
    assert merged(defaults, {"b": 2, "c": 2}, {"b": None, "c": 3}) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("url", ["memory://x", "memory:///x", "memory://?a=1", "memory://#a"])
@pytest.mark.parametrize("make_store", [MemoryStreamStore, MemoryStreamStore.from_url])
def test_a_store_treats_its_url_alike_in_both_ways(make_store, url: str):
    with pytest.raises(InvalidRequest):
        make_store(url)
