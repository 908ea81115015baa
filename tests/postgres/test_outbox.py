"""Notices on the wire: few of them, small enough for the server, and complete."""

from __future__ import annotations

import pytest

from streamstores.backends._postgres.outbox import (
    MAX_STREAMS,
    Outbox,
    parse_payload,
    payloads_of,
)


def test_many_ids_go_into_few_payloads_that_the_server_takes():
    versions = {f"{number}" + "\U0001f600" * 60: 2**52 for number in range(500)}
    payloads = list(payloads_of("sender", versions))
    assert all(len(payload.encode()) < 8_000 for payload in payloads)
    assert len(payloads) <= 500 * 270 / 6_500
    parsed = [parse_payload(payload) for payload in payloads]
    assert {sender for sender, _ in parsed} == {"sender"}
    assert [change for _, changes in parsed for change in changes] == list(versions.items())


def test_an_id_with_spaces_and_digits_is_read_back():
    versions = {"1 2 3": 7, " leading": 8, "gone": None}
    (payload,) = payloads_of("sender", versions)
    assert parse_payload(payload) == ("sender", list(versions.items()))


@pytest.mark.parametrize("payload", ["", "\n", "x\n² a", "x\n-1 a", f"x\n{'9' * 5000} a"])
def test_a_payload_that_no_store_sent_tells_no_version(payload: str):
    _, changes = parse_payload(payload)
    assert all(version is None for _, version in changes)


def test_an_outbox_keeps_the_newest_version_and_never_forgets_an_end():
    outbox = Outbox()
    for version in (1, 2, 3):
        outbox.grew("a", version)
    outbox.may_be_gone("b")
    outbox.grew("b", 4)
    assert outbox.take() == {"a": 3, "b": None}
    assert not outbox


def test_a_version_put_back_does_not_replace_a_newer_one():
    outbox = Outbox()
    outbox.grew("a", 1)
    outbox.grew("b", 1)
    taken = outbox.take()
    outbox.grew("a", 2)
    outbox.put_back(taken)
    assert outbox.take() == {"a": 2, "b": 1}


def test_more_streams_than_the_outbox_holds_become_one_notice_for_every_stream():
    outbox = Outbox()
    for number in range(MAX_STREAMS + 1):
        outbox.may_be_gone(f"{number}")
    (payload,) = payloads_of("sender", outbox.take())
    _, changes = parse_payload(payload)
    assert changes[0] == (None, None)
