"""What a chat stream stores, and the events it is sent as."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstores import Record
from streamstores._sse import EventParser, ServerSentEvent, encode_event
from streamstores.http import Event
from streamstores.http.chat.records import (
    RESERVED_NAMES,
    begins_inside,
    encode,
    sse_event,
    sse_of,
    text_of,
)

RECORD_BYTES = 1_048_576

any_text = st.text(st.characters(), max_size=40)
names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1
)


def parse(body: bytes) -> list[tuple[str, str | None, str]]:
    """(event, id, data) of each block, by the rules of the HTML standard."""
    events = []
    for block in re.split("\r\n\r\n|\n\n|\r\r", body.decode())[:-1]:
        name, event_id, data = "message", None, []
        for line in re.split("\r\n|\n|\r", block):
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "id":
                event_id = value
            elif field == "data":
                data.append(value)
        events.append((name, event_id, "\n".join(data)))
    return events


def one(piece: str | Event, **options: bool) -> tuple[str, str | None, str]:
    records = list(encode(piece, RECORD_BYTES))
    assert len(records) == 1
    [event] = parse(sse_of([Record(0, records[0])], **options))
    return event


def test_text_is_stored_as_utf8_and_the_id_is_the_offset_after_it() -> None:
    assert list(encode("wörld", RECORD_BYTES)) == ["wörld".encode()]
    assert parse(sse_of([Record(10, "wörld".encode())])) == [("message", "16", "wörld")]


def test_empty_text_makes_no_record() -> None:
    assert list(encode("", RECORD_BYTES)) == []


def test_lone_surrogates_become_replacement_characters() -> None:
    assert b"".join(encode("a\ud800b\udfff", RECORD_BYTES)).decode() == "a\ufffdb\ufffd"


@given(any_text, st.integers(4, 9))
def test_long_text_is_split_between_characters(text: str, size: int) -> None:
    records = list(encode(text, size))
    assert all(0 < len(record) <= size for record in records)
    assert "".join(record.decode() for record in records) == re.sub(
        "[\ud800-\udfff]", "\ufffd", text
    )


@given(any_text)
def test_text_arrives_with_its_line_ends_as_line_feeds(text: str) -> None:
    text += "."  # never empty
    expected = re.sub("[\ud800-\udfff]", "\ufffd", text).replace("\r\n", "\n")
    assert one(text)[2] == expected.replace("\r", "\n")


@given(any_text)
def test_text_arrives_exactly_if_json_is_accepted(text: str) -> None:
    text += "."
    name, _, data = one(text, text_as_json=True)
    assert name == ("text" if "\r" in text else "message")
    got = json.loads(data) if name == "text" else data
    assert got == re.sub("[\ud800-\udfff]", "\ufffd", text)


@given(names.filter(lambda name: name not in RESERVED_NAMES), any_text)
def test_a_named_event_arrives_whole(name: str, data: str) -> None:
    stored = re.sub("[\ud800-\udfff]", "\ufffd", data)
    end = len(f"{name}\n{stored}".encode()) + 2  # and its two marks
    arriving = stored.replace("\r\n", "\n").replace("\r", "\n")
    assert one(Event(name, data)) == (name, str(end), arriving)


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\rb", "a\0b", "\ud800", *sorted(RESERVED_NAMES)]
)
def test_an_event_name_that_the_wire_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="event"):
        Event(name, "")


@pytest.mark.parametrize(
    "name", [b"", b"a\rid: 999\rdata: forged\r\r", b"a\0b", b"done", b"stream-id"]
)
def test_a_record_that_no_model_can_have_written_is_sent_as_text(name: bytes) -> None:
    record = b"\xff%b\ndata\xff" % name
    body = sse_of([Record(0, record)]).decode(errors="replace").encode()
    [(event, event_id, data)] = parse(body)
    assert (event, event_id) == ("message", str(len(record)))
    assert data.startswith("\ufffd")


@pytest.mark.parametrize(("name", "data"), [(b"usage", ""), ("usage", b""), ("usage", {})])
def test_an_event_takes_only_text(name: object, data: object) -> None:
    with pytest.raises(TypeError):
        Event(name, data)  # type: ignore[arg-type]  # what an untyped model may do


@pytest.mark.parametrize("piece", [b"bytes", 1, None, ["text"]])
def test_a_piece_is_text_or_an_event(piece: object) -> None:
    with pytest.raises(TypeError):
        list(encode(piece, RECORD_BYTES))  # type: ignore[arg-type]  # as an untyped model


def test_an_event_over_a_record_is_refused() -> None:
    fitting = Event("n", "x" * 12)  # with its name and marks 16 bytes
    assert [len(record) for record in encode(fitting, 16)] == [16]
    with pytest.raises(ValueError, match="17 bytes"):
        list(encode(Event("n", "x" * 13), 16))


def test_the_text_of_a_stream_leaves_events_out() -> None:
    pieces = ["a", Event("usage", "b"), "ü", Event("x"), "\n"]
    records = [Record(0, data) for piece in pieces for data in encode(piece, RECORD_BYTES)]
    assert text_of(records) == "aü\n"


@given(any_text.filter(bool), st.data())
def test_a_cut_of_text_is_inside_if_it_cuts_a_character(text: str, data: st.DataObject) -> None:
    [record] = encode(text, RECORD_BYTES)
    at = data.draw(st.integers(0, len(record) - 1))
    boundaries = {0}
    for character in record.decode():
        boundaries.add(max(boundaries) + len(character.encode()))
    assert begins_inside(record[at:]) == (at not in boundaries)


@given(names.filter(lambda name: name not in RESERVED_NAMES), any_text)
def test_every_cut_of_an_event_but_at_its_start_is_inside(name: str, data: str) -> None:
    [record] = encode(Event(name, data), RECORD_BYTES)
    assert not begins_inside(record)
    assert all(begins_inside(record[at:]) for at in range(1, len(record)))


def test_events_of_the_wire_itself_have_no_id() -> None:
    assert parse(sse_event("error", "no\nluck")) == [("error", None, "no\nluck")]
    assert parse(sse_event("ping")) == [("ping", None, "")]


def test_ids_can_be_left_out() -> None:
    assert parse(sse_of([Record(0, b"a")], with_ids=False)) == [("message", None, "a")]


def test_nul_and_u2028_are_ordinary() -> None:
    assert one("a\0b\u2028c\x85d")[2] == "a\0b\u2028c\x85d"


@given(st.binary(max_size=40), st.booleans())
def test_the_parser_reads_the_encoders_output(data: bytes, compact: bool) -> None:
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    parsed = EventParser().feed(encode_event(data, name=b"n", event_id=7, compact=compact))
    assert parsed == [ServerSentEvent("n", lines.decode(errors="replace"), "7")]


def test_a_compact_event_has_a_space_only_where_it_is_needed() -> None:
    assert encode_event(b"a\n b", compact=True) == b"data:a\ndata:  b\n\n"
    assert encode_event(b" a", compact=True) == b"data:  a\n\n"
