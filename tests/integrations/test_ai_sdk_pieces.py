"""What becomes of the pieces of an answer before they are stored."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from streamstores.integrations.ai_sdk import _chunks

EVENTS = b'data: {"type": "start"}\n\ndata: {"type": "finish"}\n\n'
DONE = b"data: [DONE]\n\n"


async def pieces(*parts: bytes | str) -> AsyncIterator[bytes | str]:
    for part in parts:
        yield part


async def stored(*parts: bytes | str) -> bytes:
    return b"".join([each async for each in _chunks(pieces(*parts), "m")])


@pytest.mark.parametrize("size", [1, 2, 5, 13, 1000])
async def test_done_is_removed_however_the_events_are_cut(size: int) -> None:
    text = EVENTS + DONE
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    assert await stored(*parts) == EVENTS
    assert await stored(*(part.decode() for part in parts)) == EVENTS


async def test_an_event_that_only_begins_like_done_is_kept() -> None:
    assert await stored(b"data: [DO") == b"data: [DO"
    assert await stored(b"data: [DO", b"G]\n\n") == b"data: [DOG]\n\n"


async def test_a_whole_event_is_passed_on_at_once() -> None:
    """A piece that waits for the next one would be a token that comes late."""
    chunks = _chunks(pieces(EVENTS, EVENTS), "m")
    assert await anext(chunks) == EVENTS
    await chunks.aclose()
