"""From what a backend stores to the values of the contract, and back."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamstores import CorruptData, State
from streamstores.stored_form import (
    attributes_from_json,
    attributes_to_json,
    error_from_json,
    error_to_json,
    stored_info,
)

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
FIELDS: dict[str, Any] = {
    "state": "error",
    "tail": 3,
    "version": 7,
    "error": "why",
    "attributes": '{"a":"b"}',
    "created_at": MOMENT,
    "updated_at": MOMENT,
    "ttl": 1.5,
    "expires_at": 1_767_323_045_000_006,
}

texts = st.text(st.characters(exclude_categories=["Cs"]))


def test_the_stored_fields_make_an_info():
    info = stored_info("x", **FIELDS)
    assert info == ("x", State.ERROR, 3, 7, "why", {"a": "b"}, MOMENT, MOMENT, 1.5, MOMENT)
    kept = stored_info("x", **{**FIELDS, "ttl": None, "expires_at": None, "error": None})
    assert (kept.ttl, kept.expires_at, kept.error) == (None, None, None)


@pytest.mark.parametrize("attributes", [None, "", b"", "{}", {}, MappingProxyType({})])
def test_there_are_many_ways_to_store_no_attributes(attributes: Any):
    assert stored_info("x", **{**FIELDS, "attributes": attributes}).attributes == {}


@pytest.mark.parametrize("attributes", [{"a": "b"}, '{"a":"b"}', b'{"a": "b"}'])
def test_attributes_are_frozen(attributes: Any):
    info = stored_info("x", **{**FIELDS, "attributes": attributes})
    assert info.attributes == {"a": "b"}
    with pytest.raises(TypeError):
        info.attributes["a"] = "c"  # type: ignore[index]  # on purpose


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "paused"},
        {"state": None},
        {"attributes": "["},
        {"attributes": "[]"},
        {"attributes": '{"a": 1}'},
        {"attributes": b"\xff"},
        {"created_at": "yesterday"},
        {"created_at": None},
        {"expires_at": 10**30},
    ],
)
def test_invalid_stored_fields_are_corrupt(wrong: dict[str, Any]):
    with pytest.raises(CorruptData, match="'x'"):
        stored_info("x", **{**FIELDS, **wrong})


@given(st.dictionaries(texts, texts))
def test_attributes_come_back_from_one_printable_line(attributes: dict[str, str]):
    line = attributes_to_json(attributes)
    assert attributes_from_json(line) == attributes_from_json(line.encode()) == attributes
    assert not any(character < " " for character in line)


@given(st.none() | texts)
def test_an_error_comes_back_from_one_printable_line(error: str | None):
    line = error_to_json(error)
    assert error_from_json(line) == error
    assert line is None or not any(character < " " for character in line)


@pytest.mark.parametrize("line", ["1", "{", json.dumps(["a"])])
def test_a_malformed_stored_error_is_refused(line: str):
    with pytest.raises(ValueError):
        error_from_json(line)


def test_attributes_are_decoded_once_for_all_streams_that_a_process_produces():
    """Each append brings the attributes of its stream back, one stream after another."""
    streams = [f'{{"owner":"stream {number}"}}' for number in range(1000)]  # max_runs
    for _ in range(2):
        decoded = [attributes_from_json(text) for text in streams]
    assert attributes_from_json(streams[0]) is decoded[0]
