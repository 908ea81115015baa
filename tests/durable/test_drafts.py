"""What an append may do, without I/O."""

from __future__ import annotations

from datetime import datetime, timezone

from hypothesis import given
from hypothesis import strategies as st

from streamstores.http._asgi.errors import HttpError
from streamstores.http.durable.attributes import CONTENT_TYPE, ParsedStream
from streamstores.http.durable.drafts import AppendRequest, Claim, Draft, Taken
from streamstores.limits import Limits
from streamstores.store import State, StreamInfo

LIMITS = Limits(attributes_bytes=1200)  # with room for four producers

BEGUN = StreamInfo(
    "s",
    State.STREAMING,
    0,
    1,
    None,
    {CONTENT_TYPE: "text/plain"},
    datetime(2026, 1, 1, tzinfo=timezone.utc),
    datetime(2026, 1, 1, tzinfo=timezone.utc),
    None,
    None,
)

CLAIMS = (
    st.builds(Claim.of, st.sampled_from("abcdefg"), st.integers(0, 2), st.integers(0, 3))
    | st.none()
)


@st.composite
def appends(draw: st.DrawFn) -> AppendRequest:
    closes = draw(st.sampled_from([False] * 9 + [True]))
    body = draw(st.sampled_from([b"x", b"yy", b""] if closes else [b"x", b"yy"]))
    mime = draw(st.sampled_from(["text/plain"] * 9 + ["text/html"])) if body else None
    seq = draw(st.none() | st.sampled_from("1234"))
    return AppendRequest((body,) if body else (), len(body), mime, closes, seq, draw(CLAIMS))


def outcome(taken: Taken | HttpError) -> object:
    return taken if isinstance(taken, Taken) else (taken.status, taken.code, taken.headers)


def appended(known: ParsedStream, draft: Draft) -> ParsedStream:
    """The stream after the store has taken the draft."""
    attributes = known.info.attributes if draft.attributes is None else draft.attributes
    state = State.DONE if draft.is_closed else State.STREAMING
    return ParsedStream.of(
        known.info._replace(tail=draft.tail, state=state, attributes=attributes)
    )


@given(st.lists(appends(), max_size=25))
def test_requests_in_one_append_have_the_same_outcomes_as_one_by_one(
    requests: list[AppendRequest],
) -> None:
    together = Draft(ParsedStream.of(BEGUN), LIMITS, 86_400)
    outcomes = [outcome(together.take(request)) for request in requests]
    known, chunks = ParsedStream.of(BEGUN), []
    for request, expected in zip(requests, outcomes, strict=True):
        alone = Draft(known, LIMITS, 86_400)
        assert outcome(alone.take(request)) == expected
        chunks += alone.chunks
        known = appended(known, alone)
    assert together.chunks == chunks
    assert appended(ParsedStream.of(BEGUN), together) == known
    size = sum(len(key) + len(value) for key, value in known.info.attributes.items())
    assert size <= LIMITS.attributes_bytes


@given(st.lists(appends(), max_size=25))
def test_a_repeated_request_is_never_taken_twice(requests: list[AppendRequest]) -> None:
    draft = Draft(ParsedStream.of(BEGUN), LIMITS, 86_400)
    for request in requests:
        taken = draft.take(request)
        if isinstance(taken, Taken) and taken.is_new and request.claim is not None:
            again = draft.take(request)
            assert isinstance(again, Taken)
            assert not again.is_new
            assert again.tail == taken.tail
