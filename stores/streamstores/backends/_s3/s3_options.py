"""The options of an S3 store's URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamstores import url_options
from streamstores.backends._s3.object_keys import MAX_PREFIX_BYTES
from streamstores.errors import InvalidRequest

CONNECTION_OPTIONS = frozenset(
    {"endpoint_url", "region", "access_key", "secret_key", "session_token", "path_style"}
)
"""What a client that was passed in has decided already."""

_FORM = "an S3 URL is s3://bucket/prefix?option=value"
_CREDENTIALS_IN_PLACE = re.compile("[@:]")


@dataclass(frozen=True)
class S3Options:
    """`s3://bucket/prefix?…`, checked. Times are seconds."""

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    path_style: bool = False
    timeout: float = 10.0
    max_connections: int = 16
    linger: float = 0.2
    poll_min: float = 0.2
    poll_max: float = 0.75
    grace: float = 3600.0

    def __repr__(self) -> str:  # without the keys
        return f"s3://{self.bucket}/{self.prefix}"


def _seconds_above_0(value: str) -> float:
    number = url_options.seconds(value)
    if number == 0:
        raise ValueError("a number of seconds above 0")
    return number


def _connections(value: str) -> int:
    number = url_options.count(value)
    if not 1 <= number <= 1000:
        raise ValueError("a whole number from 1 to 1000")
    return number


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "endpoint_url": url_options.text,
    "region": url_options.text,
    "access_key": url_options.text,
    "secret_key": url_options.text,
    "session_token": url_options.text,
    "path_style": url_options.flag,
    "timeout": _seconds_above_0,
    "max_connections": _connections,
    "linger": url_options.seconds,
    "poll_min": _seconds_above_0,
    "poll_max": _seconds_above_0,
    "grace": url_options.seconds,
}


def parse_s3_url(url: str, *, has_client: bool = False) -> S3Options:
    """The options of a URL; raises `InvalidRequest` if it is wrong.

    With `has_client`, an option that the client has decided is refused.
    """
    store_url = url_options.split_store_url(url, schemes=["s3"], options=_OPTIONS)
    bucket = store_url.parts.netloc
    if not bucket:
        raise InvalidRequest(_FORM)
    if _CREDENTIALS_IN_PLACE.search(bucket):
        raise InvalidRequest(
            f"{_FORM}: keys are the options access_key and secret_key, a server is the option "
            "endpoint_url"
        )
    if bucket.endswith("--x-s3"):
        raise InvalidRequest(
            "a directory bucket lists its keys in no order: use another bucket"
        )
    if has_client:
        _refuse_connection_options(store_url.options)
    options = S3Options(bucket, _prefix(store_url.path), **store_url.options)
    if options.poll_min > options.poll_max:
        raise InvalidRequest("poll_min is at most poll_max")
    return options


def _refuse_connection_options(given: dict[str, Any]) -> None:
    for name in given:
        if name in CONNECTION_OPTIONS:
            raise InvalidRequest(f"the client that was passed in decides {name!r}")


def _prefix(path: str) -> str:
    prefix = path.strip("/")
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise InvalidRequest(f"a prefix has at most {MAX_PREFIX_BYTES} bytes")
    if any(part in {"", ".", ".."} for part in prefix.split("/")) and prefix:
        raise InvalidRequest(f"a prefix has no empty part, and none of dots alone: {prefix!r}")
    return f"{prefix}/" if prefix else ""
