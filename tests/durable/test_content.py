"""Content without I/O: JSON mode, and pieces of text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstores.http._asgi.errors import HttpError
from streamstores.http.durable.content import Content, chunks_of
from streamstores.limits import Limits

JSON = Content.of("application/json")
TEXT = Content.of("text/plain")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def messages(body: bytes) -> tuple[bytes, ...]:
    return chunks_of(JSON, body, Limits())


@pytest.mark.long
@given(st.lists(VALUES), st.sampled_from([None, 2]), st.booleans())
def test_an_array_is_taken_apart_by_one_level(
    values: list[object], indent: int | None, is_ascii: bool
) -> None:
    body = json.dumps(values, indent=indent, ensure_ascii=is_ascii).encode()
    found = messages(body)
    assert [json.loads(message) for message in found] == values
    assert json.loads(JSON.body_of(found)) == values


@given(VALUES.filter(lambda value: not isinstance(value, list)))
def test_any_other_value_is_one_message(value: object) -> None:
    body = json.dumps(value).encode()
    assert messages(b" \n" + body + b"\t") == (body,)


@given(VALUES, st.binary(max_size=3), st.integers(min_value=0))
def test_json_that_python_refuses_is_refused(value: object, noise: bytes, place: int) -> None:
    body = json.dumps([value]).encode()
    place %= len(body) + 1
    body = body[:place] + noise + body[place:]
    try:
        expected = json.loads(body.decode(), parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError):
        with pytest.raises(HttpError, match="JSON"):
            messages(body)
    else:
        assert isinstance(expected, list) or len(messages(body)) == 1


@pytest.mark.parametrize(
    "body",
    [
        *(b"[1,]", b"[,1]", b"[1 2]", b"[1", b"1 2", b"[] []", b"{'a': 1}", b"NaN"),
        *(b"[-Infinity]", b"\xff", b" ", b"[" * 100_000, b"\xef\xbb\xbf1", b'"\n"'),
    ],
)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(HttpError) as refused:
        messages(body)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


def test_numbers_stay_as_they_were_written() -> None:
    numbers = [b"1e400", b"1.10", b"-0", b"9" * 10_000]
    assert messages(b"[%b]" % b",".join(numbers)) == tuple(numbers)


@given(st.text(), st.integers(min_value=0))
def test_characters_are_never_sent_in_pieces(text: str, cut: int) -> None:
    data = text.encode("utf-8", "replace")
    cut = cut % len(data) if data else 0
    whole = TEXT.whole_bytes(data[:cut])
    assert 0 <= cut - whole <= 3
    data[:whole].decode()
    data[whole:].decode()


@given(st.binary())
def test_any_bytes_count_as_text_with_an_end(data: bytes) -> None:
    assert len(data) - 3 <= TEXT.whole_bytes(data) <= len(data)
    assert Content.of("image/png").whole_bytes(data) == len(data)


@pytest.mark.parametrize(
    ("header", "mime", "is_json", "is_text"),
    [
        (None, "application/octet-stream", False, False),
        ("Application/JSON; charset=utf-8", "application/json", True, True),
        ("TEXT/plain;charset=UTF-8", "text/plain", False, True),
        ("application/vnd.x+json", "application/vnd.x+json", False, False),
    ],
)
def test_content_types_are_parsed(
    header: str | None, mime: str, is_json: bool, is_text: bool
) -> None:
    content = Content.of(header)
    assert (content.mime, content.is_json, content.is_text) == (mime, is_json, is_text)


@pytest.mark.parametrize(
    "header",
    [
        "text",
        "text/plain\n;x",
        "text/plain\r\n;x",
        "text/plain;x\r\ny: z",
        "text/plain;\u2028x",
        "a/b\0",
    ],
)
def test_a_content_type_that_no_header_can_carry_is_refused(header: str) -> None:
    with pytest.raises(HttpError, match="not a content type"):
        Content.of(header)
