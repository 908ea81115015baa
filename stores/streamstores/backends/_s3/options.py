"""What a store's URL may say, and the two documents that an S3 account needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from streamstores.backends._s3.keys import MAX_PREFIX_BYTES
from streamstores.errors import InvalidRequest

CONNECTION_OPTIONS = frozenset(
    {"endpoint_url", "region", "access_key", "secret_key", "session_token", "path_style"}
)
"""What a client that was passed in has decided already."""


@dataclass(frozen=True)
class Options:
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


def parse(url: str) -> Options:
    """The options of a URL; raises `InvalidRequest` for an unknown or a wrong one."""
    if not isinstance(url, str):
        raise InvalidRequest(f"a store URL is a str, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as exc:
        raise InvalidRequest(f"not an S3 URL: {exc}") from exc
    if parts.scheme != "s3" or not parts.netloc:
        raise InvalidRequest("an S3 URL is s3://bucket/prefix?option=value")
    if "@" in parts.netloc or ":" in parts.netloc or parts.fragment:
        raise InvalidRequest(
            "an S3 URL is s3://bucket/prefix?option=value: keys are the options access_key and "
            "secret_key, a server is the option endpoint_url"
        )
    if parts.netloc.endswith("--x-s3"):
        raise InvalidRequest(
            "a directory bucket lists its keys in no order: use another bucket"
        )
    values = {name: _READERS[name](name, text) for name, text in _known(pairs)}
    options = Options(parts.netloc, _prefix(unquote(parts.path)), **values)
    if options.poll_min > options.poll_max:
        raise InvalidRequest("poll_min is at most poll_max")
    return options


def check_with_client(url: str) -> None:
    """Raise where the URL says what a client that was passed in has decided."""
    for name, _ in parse_qsl(urlsplit(url).query):
        if name in CONNECTION_OPTIONS:
            raise InvalidRequest(f"the client that was passed in decides {name!r}")


def _known(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    names = [name for name, _ in pairs]
    for name in names:
        if name not in _READERS:
            known = ", ".join(sorted(_READERS))
            raise InvalidRequest(f"s3:// has no option {name!r}; it has {known}")
        if names.count(name) > 1:
            raise InvalidRequest(f"the option {name!r} is given twice")
    return pairs


def _prefix(path: str) -> str:
    prefix = path.strip("/")
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise InvalidRequest(f"a prefix has at most {MAX_PREFIX_BYTES} bytes")
    if any(part in {"", ".", ".."} for part in prefix.split("/")) and prefix:
        raise InvalidRequest(f"a prefix has no empty part and no dots alone: {prefix!r}")
    return f"{prefix}/" if prefix else ""


def _text(name: str, text: str) -> str:
    if not text:
        raise InvalidRequest(f"the option {name!r} is empty")
    return text


def _flag(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise InvalidRequest(f"the option {name!r} is true or false, not {text!r}")
    return text == "true"


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf and not (value == 0 and name in {"linger", "grace"}):
        raise InvalidRequest(f"the option {name!r} is seconds above 0, not {text!r}")
    return value


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise InvalidRequest(f"the option {name!r} is a number from 1 to 1000, not {text!r}")
    return int(text)


_BY_TYPE: dict[str, Callable[[str, str], Any]] = {
    "str | None": _text,
    "bool": _flag,
    "float": _seconds,
    "int": _count,
}
_READERS = {
    field.name: _BY_TYPE[str(field.type)]
    for field in fields(Options)
    if field.name not in {"bucket", "prefix"}
}


def lifecycle_rule(options: Options) -> dict[str, Any]:
    """A rule for the bucket's lifecycle: gives back what a killed process left of a multipart
    upload, and, where the bucket keeps versions, what the store has removed."""
    return {
        "ID": f"streamstores-{options.prefix.rstrip('/') or 'all'}",
        "Status": "Enabled",
        "Filter": {"Prefix": options.prefix},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }


def iam_policy(options: Options) -> dict[str, Any]:
    """The least that the store needs. Without `s3:ListBucket`, S3 answers 403 instead of 404
    for an object that is not there, and nothing works."""
    bucket = f"arn:aws:s3:::{options.bucket}"
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": actions,
                "Resource": f"{bucket}/{options.prefix}*",
            },
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": bucket},
        ],
    }
