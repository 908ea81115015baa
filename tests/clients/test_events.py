"""The Python client's parser of server-sent events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstores._sse import EventParser
from tests.http.scripted_server import event

texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))
names = st.sampled_from(["", "usage", "text", "done"])
events = st.lists(st.tuples(names, st.lists(texts, min_size=1), st.none() | st.integers(0)))


@given(events, st.sampled_from(["\n", "\r", "\r\n"]), st.data())
def test_events_survive_every_line_end_and_every_slicing(
    written: list[tuple[str, list[str], int | None]], line_end: str, data: st.DataObject
) -> None:
    body = b"".join(
        event(name, "\n".join(lines), offset).replace(b"\n", line_end.encode())
        for name, lines, offset in written
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    parser = EventParser()
    parsed = [
        each
        for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)
        for each in parser.feed(body[start:stop])
    ]
    assert parsed == [
        (name, "\n".join(lines), None if offset is None else str(offset))
        for name, lines, offset in written
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\xef\xbb\xbfdata: a\n\n", [("", "a", None)]),
        (b": a comment\n\nevent: x\n\ndata: a\n\n", [("", "a", None)]),
        (b"data\ndata:b\nfield: x\n\n", [("", "\nb", None)]),
        (b"id: 1\0\ndata:  a\n\n", [("", " a", None)]),
        (b"data: \xff\n\ndata: unfinished\n", [("", "\ufffd", None)]),
    ],
    ids=["byte order mark", "no data", "no colon", "NUL in an id", "invalid and unfinished"],
)
def test_the_parser_keeps_the_standards_small_print(
    body: bytes, expected: list[tuple[str, str, str | None]]
) -> None:
    assert EventParser().feed(body) == expected
