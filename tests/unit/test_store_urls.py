"""The URLs of all stores: a mistake is refused alike by each of them, however it is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

import streamstores
from streamstores import InvalidRequest, StreamStore, open_store

# scheme: (store class, URL without options, an option that it has, a flag if it has one)
STORES = {
    "memory": ("MemoryStreamStore", "memory://", None, None),
    "sqlite": ("SQLiteStreamStore", "sqlite:////x/y.db", "busy_timeout", None),
    "postgresql": ("PostgresStreamStore", "postgresql://me:hush@h/x", "timeout", "notify"),
    "redis": ("RedisStreamStore", "redis://me:hush@h/0", "timeout", "tls"),
    "rediss": ("RedisStreamStore", "rediss://me:hush@h/0", "timeout", "ssl_verify"),
    "redis+cluster": ("RedisStreamStore", "redis+cluster://me:hush@h,i", "timeout", "tls"),
    "redis+sentinel": ("RedisStreamStore", "redis+sentinel://me:hush@h,i/m", "timeout", "tls"),
    "s3": ("S3StreamStore", "s3://bucket/prefix", "timeout", "path_style"),
}


def ways(scheme: str) -> list[Callable[[str], StreamStore]]:
    """How a store is made from a URL."""
    store: Any = getattr(streamstores, STORES[scheme][0])
    return [open_store, store, store.from_url]


def refusals(scheme: str, url: str) -> list[str]:
    """The error texts of all ways; fails if any way accepts the URL."""
    texts = []
    for make_store in ways(scheme):
        with pytest.raises(InvalidRequest) as caught:
            make_store(url)
        texts.append(str(caught.value))
        assert "hush" not in texts[-1]
    return texts


@pytest.mark.parametrize("scheme", STORES)
@pytest.mark.parametrize(
    ("ending", "named"),
    [
        ("?colour=red", "'colour'"),
        ("?colour=red&colour=blue", "'colour'"),
        ("?colour", "'colour'"),
        ("?=1", "''"),
        ("#fragment", "%23"),
        ("?#", "%23"),
        ("/%00", "%00"),
        ("?colour=%00", "%00"),
        ("/%FF", "UTF-8"),
        ("\n", "control"),
    ],
)
def test_an_invalid_url_is_refused_with_the_same_message_in_every_way_of_opening(
    scheme: str, ending: str, named: str
):
    texts = refusals(scheme, STORES[scheme][1] + ending)
    assert all(named in text for text in texts), texts
    assert len(set(texts)) == 1


@pytest.mark.parametrize("scheme", [scheme for scheme in STORES if STORES[scheme][2]])
@pytest.mark.parametrize("values", ["1|2", "", None, "soon", "-1", "nan", "inf", "1_0"])
def test_an_option_that_is_repeated_or_malformed_is_refused_by_name(
    scheme: str, values: str | None
):
    _, url, option, _ = STORES[scheme]
    options = [option] if values is None else [f"{option}={each}" for each in values.split("|")]
    for text in refusals(scheme, f"{url}?{'&'.join(options)}"):
        assert f"'{option}'" in text


@pytest.mark.parametrize("scheme", [scheme for scheme in STORES if STORES[scheme][3]])
@pytest.mark.parametrize("value", ["true", "1", "yes", "false", "0", "no", "True", "NO"])
def test_a_flag_is_written_alike(scheme: str, value: str):
    _, url, _, flag = STORES[scheme]
    for make_store in ways(scheme):
        make_store(f"{url}?{flag}={value}")
    for text in refusals(scheme, f"{url}?{flag}=perhaps"):
        assert f"'{flag}'" in text


@pytest.mark.parametrize("scheme", STORES)
def test_the_repr_of_a_store_names_its_target_without_secrets(scheme: str):
    name, url, _, _ = STORES[scheme]
    for make_store in ways(scheme):
        shown = repr(make_store(url))
        assert shown.startswith(f"<{name} ")
        assert "hush" not in shown
        place = url.partition("://")[2].rpartition("@")[2]
        assert all(part in shown for part in re.split("[/,]", place)), shown
