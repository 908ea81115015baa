"""Commands as bytes, and replies from bytes that arrive in any pieces."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    InvalidResponse,
    MovedError,
    NoScriptError,
    ResponseError,
)
from redis.exceptions import ConnectionError as ServerRefuses

from streamstores.backends._redis.resp import (
    HiredisParser,
    PythonParser,
    encode_command,
    error_of,
)

REPLIES = (
    (b"$3\r\nabc\r\n", b"abc"),
    (b"$4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b":-12\r\n", -12),
    (b"+OK\r\n", b"OK"),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n$1\r\na\r\n*2\r\n:1\r\n$-1\r\n+b\r\n", [b"a", [1, None], b"b"]),
)
BYTES = b"".join(sent for sent, _ in REPLIES)
MEANT = [meant for _, meant in REPLIES]


@pytest.fixture(params=[PythonParser, HiredisParser])
def parser_type(request):
    if request.param is HiredisParser and find_spec("hiredis") is None:
        pytest.skip("hiredis is not installed")
    return request.param


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, len(BYTES)])
def test_replies_are_parsed_however_their_bytes_are_split(parser_type, size):
    replies: list[Any] = []
    parser = parser_type(replies.append)
    for start in range(0, len(BYTES), size):
        parser.feed(BYTES[start : start + size])
    assert replies == MEANT


def test_a_reply_is_handed_over_with_its_last_byte(parser_type):
    replies: list[Any] = []
    parser = parser_type(replies.append)
    for sent, meant in REPLIES:
        parser.feed(sent[:-1])
        count = len(replies)
        parser.feed(sent[-1:])
        assert replies[count:] == [meant]


def test_a_big_reply_is_joined_only_once(monkeypatch):
    replies: list[Any] = []
    parser = PythonParser(replies.append)
    parsed: list[int] = []
    parse = parser._parse
    monkeypatch.setattr(parser, "_parse", lambda data: parsed.append(len(data)) or parse(data))
    data = b"x" * 1_000_000
    sent = b"$1000000\r\n" + data + b"\r\n"
    for start in range(0, len(sent), 10_000):
        parser.feed(sent[start : start + 10_000])
    assert replies == [data]
    assert len(parsed) == 2


@pytest.mark.parametrize(
    "sent",
    [b"HTTP/1.1 400 Bad Request\r\n", b"$five\r\n", b"$-2\r\n"],
)
def test_bytes_that_are_no_reply_are_refused(parser_type, sent):
    with pytest.raises(InvalidResponse, match="not a reply"):
        parser_type(lambda reply: None).feed(sent)


def test_a_length_that_no_redis_sends_is_refused():
    with pytest.raises(InvalidResponse, match="not a reply"):
        PythonParser(lambda reply: None).feed(b"$12345678901\r\n")


def test_an_error_reply_is_an_exception_whatever_its_bytes(parser_type):
    replies: list[Any] = []
    parser_type(replies.append).feed(b"*2\r\n-MOVED 7 a:1\r\n-ERR \xff\r\n")
    ((moved, other),) = replies
    assert (type(moved), moved.node_addr) == (MovedError, ("a", 1))
    assert (type(other), str(other)) == (ResponseError, "ERR \N{REPLACEMENT CHARACTER}")


def test_what_is_raised_for_a_reply_leaves_the_parser(parser_type):
    def refuse(reply):
        raise KeyError(reply)

    with pytest.raises(KeyError):
        parser_type(refuse).feed(b":1\r\n:2\r\n")


def test_a_command_is_an_array_of_bulk_strings():
    assert encode_command(("GET", b"\r\n", 12)) == (
        b"*3\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n$2\r\n12\r\n"
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("NOSCRIPT No matching script.", NoScriptError),
        ("MOVED 3999 127.0.0.1:6381", MovedError),
        ("ASK 3999 127.0.0.1:6381", AskError),
        ("LOADING Redis is loading the dataset in memory", BusyLoadingError),
        ("ERR max number of clients reached", ServerRefuses),
        ("ERR something else", ResponseError),
        ("OOM command not allowed when used memory > 'maxmemory'.", ResponseError),
    ],
)
def test_an_error_reply_raises_the_exception_of_the_driver(text, kind):
    assert type(error_of(text)) is kind


def test_a_redirection_names_its_target():
    assert error_of("ASK 3999 127.0.0.1:6381").node_addr == ("127.0.0.1", 6381)
