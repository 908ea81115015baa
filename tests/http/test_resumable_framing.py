"""What a source may yield, how it becomes records, and how records are sent."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstores._sse import EventParser
from streamstores.http import ServerSentEvent
from streamstores.http.resumable.framings import framing_of
from streamstores.mutations import records_of

EVENTS = "text/event-stream"


def stored(pieces, media_type=EVENTS, event_ids="offsets", record_bytes=1000) -> list[bytes]:
    framing = framing_of(media_type, event_ids, record_bytes)
    records = [record for piece in pieces for record in framing.records_of(piece)]
    rest = framing.rest()
    return [*records, rest] if rest else records


def sent(records: list[bytes], media_type=EVENTS, event_ids="offsets") -> bytes:
    framing = framing_of(media_type, event_ids, 1000)
    return framing.body_of(records_of(tuple(records), sum(map(len, records))))


class Model:
    def model_dump_json(self) -> str:
        return '{"a": 1}'


class Foreign:
    """As the events of other libraries are."""

    def encode(self) -> bytes:
        return b"event: x\r\ndata: 1\r\n\r\n"


@pytest.mark.parametrize(
    ("piece", "record"),
    [
        ("data: 1\n\n", b"data: 1\n\n"),
        (b"data: 1\r\n\r\n", b"data: 1\n\n"),
        (bytearray(b"data: 1\n\n"), b"data: 1\n\n"),
        ({"a": "é"}, 'data: {"a": "é"}\n\n'.encode()),
        ([1, 2], b"data: [1, 2]\n\n"),
        (Model(), b'data: {"a": 1}\n\n'),
        (Foreign(), b"event: x\r\ndata: 1\n\n"),
        (ServerSentEvent("x", "1\n2", None), b"event: x\ndata: 1\ndata: 2\n\n"),
        (": a comment\n\n", b": a comment\n\n"),
    ],
)
def test_a_source_may_yield_events_in_many_forms(piece, record):
    assert stored([piece]) == [record]


def test_text_without_its_last_empty_line_is_completed():
    assert stored(["data: 1"]) == [b"data: 1\n\n"]


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
def test_formatted_text_may_be_cut_anywhere(end):
    text = "".join(f"event: n\ndata: {number}{end}" for number in range(30)).encode()
    whole = [b"event: n\ndata: %d\n\n" % number for number in range(30)]
    for seed in range(50):
        cuts = sorted(random.Random(seed).sample(range(1, len(text)), 20))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert stored(pieces) == whole, seed


@given(st.lists(st.text().filter(lambda text: "\0" not in text), min_size=1, max_size=10))
def test_a_client_parses_the_text_that_the_source_sent(texts):
    records = stored([ServerSentEvent("", text, None) for text in texts], record_bytes=10_000)
    events = EventParser().feed(sent(records))
    expected = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
    assert [event.data for event in events] == expected
    ends = [sum(map(len, records[: n + 1])) for n in range(len(records))]
    assert [event.id for event in events] == [str(end) for end in ends]


def test_own_ids_are_sent_as_they_are():
    records = stored(["id: a\ndata: 1\n\n"], event_ids="own")
    assert sent(records, event_ids="own") == b"id: a\ndata: 1\n\n"


@dataclass
class NotJson:
    value: int


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        (["id: a\ndata: 1\n\n"], "event_ids='own'"),
        ([ServerSentEvent("", "1", "a")], "event_ids='own'"),
        (["data: 1\n", {"a": 1}], "in the middle of formatted text"),
        ([NotJson(1)], "not NotJson"),
        ([1.5], "not float"),
        ([None], "not NoneType"),
        ([{"a": float("nan")}], "JSON"),
        ([{"a": object()}], "JSON"),
        (["data: " + "x" * 1000], "over the 1000 bytes"),
        ([ServerSentEvent("a\nb", "1", None)], "not a name"),
    ],
)
def test_an_invalid_event_is_refused(pieces, error):
    with pytest.raises((TypeError, ValueError), match=error):
        stored(pieces)


def test_lines_are_records_of_their_own():
    jsonl = "application/x-ndjson"
    assert stored([{"a": 1}, '{"b"', ": 2}\n{}", "\n"], jsonl) == [
        b'{"a": 1}\n',
        b'{"b": 2}\n',
        b"{}\n",
    ]
    assert stored(['{"a": 1}'], jsonl) == [b'{"a": 1}'], "the last line may have no end"
    with pytest.raises(ValueError, match="middle of a line"):
        stored(["{", {"a": 1}], jsonl)
    with pytest.raises(ValueError, match="over the 1000 bytes"):
        stored(["x" * 1001], jsonl)


def test_other_media_types_are_bytes_as_they_come():
    assert stored([b"\x00\xff", "é", b"x" * 2500], "audio/mpeg") == [
        b"\x00\xff",
        "é".encode(),
        b"x" * 1000,
        b"x" * 1000,
        b"x" * 500,
    ]
    with pytest.raises(TypeError, match="bytes or str here, not dict"):
        stored([{"a": 1}], "audio/mpeg")
