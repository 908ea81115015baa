"""Store URLs: one parser of their options, and one way to show them without secrets.

Every store declares its options and their types, and reads its URL with `split_store_url`, so
that a mistake in a URL is refused in the same way everywhere and never ignored:

    OPTIONS = {"prefix": text, "timeout": seconds, "tls": flag}

    url = split_store_url("redis://host?timeout=2", schemes=("redis",), options=OPTIONS)
    url.parts.hostname  # "host"
    url.options         # {"timeout": 2.0}

A value is percent-encoded UTF-8. A `+` is a plus sign: secret keys contain it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from streamstores.errors import InvalidRequest

__all__ = [
    "StoreURL",
    "count",
    "flag",
    "merged",
    "one_of",
    "redacted",
    "seconds",
    "split_store_url",
    "text",
]

OptionType = Callable[[str], Any]
"""Reads the decoded value of an option; raises `ValueError` with what the value must be."""

_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_SECRET = re.compile(r"password|secret|token|access_key|_key$", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(://[^/?#@:]*):[^@]*@")  # also if `urlsplit` would cut it in two


class StoreURL(NamedTuple):
    """A store URL whose options have been read."""

    parts: SplitResult
    """The URL, with only those options in its query that the store passes on to its driver."""
    options: dict[str, Any]
    """The store's own options that were given, converted to their types."""

    @property
    def path(self) -> str:
        """The path, decoded."""
        return unquote(self.parts.path)


def split_store_url(
    url: str,
    *,
    schemes: Collection[str],
    options: Mapping[str, OptionType],
    passed_on: Collection[str] = (),
) -> StoreURL:
    """Take a store URL apart and convert its options; connects to nothing.

    `options` maps the names that the store reads to their types. Those in `passed_on` are the
    driver's: they are checked for repetition only and stay in the query of `parts`, as written.

    Raises `InvalidRequest`, with the URL as `redacted` shows it, if

    - the scheme is not one of `schemes`;
    - an option is unknown, repeated, without a value or of the wrong type;
    - there is a fragment (`#` in a password or a path is written `%23`);
    - there are control characters, `%00`, or an escape that is not UTF-8.
    """
    parts = _split(url, schemes)
    values: dict[str, Any] = {}
    kept: list[tuple[str, str]] = []
    for name, value, field in _fields(url, parts.query):
        if name not in options and name not in passed_on:
            known = ", ".join(sorted(options)) or "none"
            raise _refusal(url, f"there is no option {name!r}; the options are: {known}")
        if name in values or any(name == each for each, _ in kept):
            raise _refusal(url, f"the option {name!r} is given twice")
        if name in options:
            values[name] = _converted(url, name, value, options[name])
        else:
            kept.append((name, field))
    query = "&".join(field for _, field in kept)
    return StoreURL(parts._replace(query=query), values)


def merged(
    defaults: Mapping[str, Any], url_options: Mapping[str, Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a store: an argument of its constructor that is not None goes before the
    option of its URL, which goes before the default."""
    given = {name: value for name, value in arguments.items() if value is not None}
    return {**defaults, **url_options, **given}


def redacted(url: str) -> str:
    """The URL without passwords, for messages and reprs.

    The password before the host, and the value of every option that holds a secret or a URL
    with a password, become `***`. Works on any text, even if it is not a URL.
    """
    address, mark, query = url.partition("?")
    try:
        userinfo, at, _ = _parts_of(url).netloc.rpartition("@")
    except ValueError:
        userinfo, at = "", ""
    if at and ":" in userinfo:
        user = userinfo.partition(":")[0]
        address = address.replace(f"{userinfo}@", f"{user}:***@", 1)
    elif "@" in url:  # a password with an unescaped "/", "?" or "#" is in the path or query
        address, mark, query = _CREDENTIALS.sub(r"\1:***@", url).partition("?")
    return address + mark + "&".join(map(_redacted_field, query.split("&")))


# ---- the types of options


def text(value: str) -> str:
    """Any text that is not empty."""
    if not value:
        raise ValueError("text that is not empty")
    return value


def flag(value: str) -> bool:
    """true, 1 or yes; false, 0 or no."""
    try:
        return _FLAGS[value.lower()]
    except KeyError:
        raise ValueError("true or false (or 1, 0, yes, no)") from None


def seconds(value: str) -> float:
    """A finite number from 0, such as `0.5`; the store may set closer bounds."""
    try:
        number = float(value) if re.fullmatch("[0-9.eE+-]+", value) else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError("a number of seconds from 0")
    return number


def count(value: str) -> int:
    """A whole number from 0 in decimal digits; the store may set closer bounds."""
    if not re.fullmatch("[0-9]{1,18}", value):
        raise ValueError("a whole number from 0")
    return int(value)


def one_of(*names: str) -> OptionType:
    """One of these words."""

    def read(value: str) -> str:
        if value not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return value

    return read


# ---- parts of the above


def _parts_of(url: str) -> SplitResult:
    """As `urlsplit`, for several hosts too: since Python 3.14 that refuses an IPv6 address
    behind another host. Raises `ValueError`."""
    scheme, _, rest = url.partition("://")
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    if "," not in netloc:
        return urlsplit(url)
    for host in netloc.rpartition("@")[2].split(","):
        urlsplit(f"//{host}")
    return urlsplit(f"{scheme}://{rest[len(netloc) :]}")._replace(netloc=netloc)


def _split(url: str, schemes: Collection[str]) -> SplitResult:
    """The parts of the URL, before its options are read."""
    if not isinstance(url, str):
        raise InvalidRequest(f"a store URL is a str, not {type(url).__name__}")
    if _CONTROL.search(url):  # urlsplit would drop some of them without a word
        raise _refusal(url, "a URL contains no control characters")
    try:
        parts = _parts_of(url)
        # By default `unquote` puts U+FFFD for what is not UTF-8, and so names another file.
        if "\0" in unquote(url, errors="strict"):
            raise _refusal(url, "%00 has no place in a URL")
    except UnicodeDecodeError:
        raise _refusal(url, "a percent-encoded text is not UTF-8") from None
    except InvalidRequest:
        raise
    except ValueError:  # not chained: its text can contain the password
        raise _refusal(url, "this is not a URL") from None
    if parts.scheme not in schemes or "://" not in url:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise _refusal(url, f"the URL of this store begins with {known}")
    if "#" in url:
        raise _refusal(url, "a URL has no fragment: write # as %23")
    return parts


def _fields(url: str, query: str) -> Iterator[tuple[str, str, str]]:
    """Name, value and raw text of each option."""
    for field in query.split("&") if query else ():
        name, equals, value = field.partition("=")
        name = unquote(name)  # not `parse_qsl`, which takes a plus sign for a space
        if not name or not equals:
            raise _refusal(url, f"an option is written name=value, not {name!r}")
        yield name, unquote(value), field


def _converted(url: str, name: str, value: str, read: OptionType) -> Any:
    try:
        return read(value)
    except ValueError as exc:
        # The value of a secret option is in no message, even if it is wrong.
        shown = "" if _SECRET.search(name) else f", not {value!r}"
        raise _refusal(url, f"the option {name!r} is {exc}{shown}") from None


def _refusal(url: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{reason} ({redacted(url)})")


def _redacted_field(field: str) -> str:
    name, equals, value = field.partition("=")
    decoded = unquote(value)
    if equals and (_SECRET.search(unquote(name)) or ("://" in decoded and "@" in decoded)):
        return f"{name}=***"
    return field
