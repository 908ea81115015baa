"""How ids become keys, and keys ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstores import CorruptData
from streamstores.backends._s3.object_keys import (
    MAX_PREFIX_BYTES,
    CalendarEntry,
    ObjectKeys,
    escaped,
    unescaped,
)

IDS = ("a", "a/b", "../a", "/a", "a//b", "%2F", "*", "{a}", "🦆", "a.stream", "é" * 127, ".")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=255)


@pytest.mark.parametrize("stream_id", IDS)
def test_an_id_comes_back_from_its_key(stream_id: str) -> None:
    keys = ObjectKeys("some/where/")
    assert keys.id_of(keys.head(stream_id)) == stream_id


@given(texts)
def test_any_text_comes_back_from_its_escaped_form(text: str) -> None:
    assert unescaped(escaped(text)) == text


@given(texts, texts)
def test_the_heads_of_a_prefix_are_those_of_the_ids_that_begin_with_it(
    one: str, other: str
) -> None:
    keys = ObjectKeys("")
    assert keys.head(one).startswith(keys.heads_of(other)) == one.startswith(other)
    assert keys.head(other + one).startswith(keys.heads_of(other))


@given(texts, texts)
def test_no_head_is_the_folder_of_another(one: str, other: str) -> None:
    keys = ObjectKeys("")
    assert not keys.head(one).startswith(f"{keys.head(other)}/")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=255))
def test_keys_use_only_characters_that_every_server_takes(text: str) -> None:
    stream_id = text.encode()[:255].decode(errors="ignore")
    key = ObjectKeys("p" * MAX_PREFIX_BYTES + "/").stream_entry(10**12 - 1, stream_id)
    assert len(key) <= 1024
    assert all(len(part) <= 255 for part in key.split("/"))
    assert not set(key.split("/")) & {".", ".."}


def test_the_longest_id_of_the_widest_characters_has_a_key() -> None:
    key = ObjectKeys("p" * MAX_PREFIX_BYTES + "/").stream_entry(10**12 - 1, "\U0001f986" * 63)
    assert len(key) <= 1024


def test_newer_segments_are_listed_first() -> None:
    keys = ObjectKeys("")
    names = [keys.segment("g", number) for number in (0, 1, 9, 10, 123_456_789)]
    assert sorted(names, reverse=True) == names
    assert [keys.number_of(name) for name in names] == [0, 1, 9, 10, 123_456_789]


def test_the_calendar_is_in_the_order_of_time() -> None:
    keys = ObjectKeys("p/")
    early, late = keys.stream_entry(99, "z/é"), keys.rest_entry(100, "g")
    assert early < late
    assert keys.entry_of(early) == CalendarEntry(99, "z/é", None)
    assert keys.entry_of(late) == CalendarEntry(100, None, "g")


@pytest.mark.parametrize("key", ["p/due/x", "p/due/000000000001/what/a", "p/due//stream/a"])
def test_a_foreign_object_in_the_calendar_is_corrupt(key: str) -> None:
    with pytest.raises(CorruptData):
        ObjectKeys("p/").entry_of(key)


def test_a_name_that_no_store_writes_is_corrupt() -> None:
    with pytest.raises(CorruptData):
        unescaped("!FF!FE")
