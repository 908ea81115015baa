"""The Responses API, asked by the `openai` client."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import openai
import pytest

from tests.http.cutting_proxy import cutting_proxy
from tests.integrations.openai_clients import openai_clients

APP = "tests.integrations.openai_responses_app:app"


@pytest.fixture
async def ask():
    """Gives the `responses` of a client of a process, or of a URL."""
    async with openai_clients() as client_of:
        yield (
            lambda process, user="alice": (
                client_of(getattr(process, "url", process), user).responses
            )
        )


async def read(stream, *, until: int | None = None) -> list:
    """The events to the end or the cut, or until `until` deltas have come."""
    events = []
    stream = await stream
    with suppress(openai.APIConnectionError):
        async for event in stream:
            events.append(event)
            if until is not None and len(text_of(events).split()) >= until:
                break
    await stream.close()
    return events


def text_of(events) -> str:
    return "".join(e.delta for e in events if e.type == "response.output_text.delta")


def said(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


def numbers(events) -> list[int]:
    return [event.sequence_number for event in events]


def create(responses, prompt: str, **fields):
    return responses.create(model="m", input=prompt, **{"stream": True, **fields})


def resume(responses, events, **fields):
    after = {"starting_after": events[-1].sequence_number} if events else {}
    return responses.retrieve(events[0].response.id, stream=True, **after, **fields)


async def test_text_becomes_a_whole_response(start, ask):
    responses = ask(await start(APP))
    events = await read(create(responses, "3 0", metadata={"a": "b"}))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert numbers(events) == list(range(len(events)))
    final = events[-1].response
    assert (final.output_text, final.status) == (said(3), "completed")
    assert final.metadata == {"a": "b"}
    assert await responses.retrieve(final.id) == final
    async with responses._client.responses.stream(response_id=final.id) as stream:
        assert (await stream.get_final_response()).output_text == said(3)


async def test_a_cut_response_resumes_strictly_after_the_last_event(start, ask, calls):
    process = await start(APP)
    async with cutting_proxy(process.url) as (proxy, url):
        proxy.answer_bytes = 6_000
        responses = ask(url)
        events = await read(create(responses, "300 0.002", background=True))
        cuts = 0
        while events[-1].type != "response.completed":
            cuts += 1
            events += await read(resume(responses, events))
    assert cuts > 3
    assert numbers(events) == list(range(len(events)))
    assert text_of(events) == events[-1].response.output_text == said(300)
    assert calls() == 1


async def test_late_and_double_readers_in_other_processes_get_all_of_it(start, ask, calls):
    process, other = await start(APP), await start(APP)
    begun = await read(create(ask(process), "100 0.01"), until=5)
    response_id = begun[0].response.id
    readers = [ask(each) for each in (process, other, other)]
    answers = await asyncio.gather(
        *(read(each.retrieve(response_id, stream=True)) for each in readers)
    )
    for events in answers:
        assert numbers(events) == list(range(len(events)))
        assert events[: len(begun)] == begun
        assert text_of(events) == said(100)
    assert await read(resume(readers[1], answers[0])) == []
    assert calls() == 1


async def test_without_streaming_a_response_is_whole_or_polled(start, ask):
    process, other = await start(APP), await start(APP)
    whole = await create(ask(process), "5 0", stream=False)
    assert (whole.output_text, whole.status, whole.background) == (said(5), "completed", False)
    begun = await create(ask(process), "20 0.02", stream=False, background=True)
    assert (begun.status, begun.background) == ("in_progress", True)
    while (now := await ask(other).retrieve(begun.id)).status == "in_progress":
        assert said(20).startswith(now.output_text)
        await asyncio.sleep(0.05)
    assert (now.output_text, now.status) == (said(20), "completed")


async def test_cancel_ends_the_response_in_every_process(start, ask, calls):
    process, other = await start(APP), await start(APP)
    reading = asyncio.ensure_future(read(create(ask(process), "100000 0.01")))
    while not calls():
        await asyncio.sleep(0.01)
    begun = await read(create(ask(process), "100000 0.01"), until=3)
    response_id = begun[0].response.id
    late = asyncio.ensure_future(read(resume(ask(other), begun)))
    cancelled = await ask(other).cancel(response_id)
    assert (cancelled.id, cancelled.status) == (response_id, "cancelled")
    assert await ask(process).cancel(response_id) == cancelled
    events = begun + await asyncio.wait_for(late, 60)
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.status == "cancelled"
    assert events[-1].response.output_text == text_of(events) == cancelled.output_text
    assert numbers(events) == list(range(len(events)))
    assert await read(resume(ask(other), events)) == []
    assert await read(resume(ask(other), events[:-1])) == events[-1:]
    assert not reading.done(), "the other response goes on"
    reading.cancel()


async def test_the_response_of_a_killed_process_fails_and_no_client_hangs(start, ask):
    process, other = await start(APP), await start(APP)
    begun = await read(create(ask(process), "100000 0.01"), until=5)
    reading = asyncio.ensure_future(read(resume(ask(other), begun)))
    await asyncio.sleep(0)
    await process.kill()
    events = begun + await asyncio.wait_for(reading, 60)
    assert events[-1].type == "response.failed"
    assert "process" in events[-1].response.error.message
    assert numbers(events) == list(range(len(events)))
    assert (await ask(other).retrieve(begun[0].response.id)).status == "failed"


async def test_a_polled_response_of_a_killed_process_fails_too(start, ask):
    process, other = await start(APP), await start(APP)
    begun = await create(ask(process), "100000 0.01", stream=False, background=True)
    assert (await ask(other).retrieve(begun.id)).status == "in_progress"
    await process.kill()
    while (now := await ask(other).retrieve(begun.id)).status == "in_progress":
        await asyncio.sleep(0.1)
    assert now.status == "failed"


async def test_the_response_of_a_killed_process_goes_on_if_it_can_be_revived(start, ask, calls):
    process, other = await start(APP, REVIVE="1"), await start(APP, REVIVE="1")
    begun = await read(create(ask(process), "150 0.02"), until=5)
    reading = asyncio.ensure_future(read(resume(ask(other), begun)))
    await asyncio.sleep(0)
    await process.kill()
    events = begun + await asyncio.wait_for(reading, 60)
    assert numbers(events) == list(range(len(events)))
    assert text_of(events) == events[-1].response.output_text == said(150)
    assert len([e for e in events if e.type == "response.output_item.added"]) == 1
    assert calls() == 2


async def test_a_repeated_post_with_its_key_is_one_generation(start, ask, calls):
    processes = [await start(APP) for _ in range(2)]
    fields = {"extra_headers": {"Idempotency-Key": "key"}}
    answers = await asyncio.gather(
        *(read(create(ask(each), "30 0.01", **fields)) for each in processes * 2)
    )
    assert {text_of(events) for events in answers} == {said(30)}
    assert len({events[0].response.id for events in answers}) == 1
    assert calls() == 1
    other = await read(create(ask(processes[0], "bob"), "30 0", **fields))
    assert other[0].response.id != answers[0][0].response.id
    another = await read(create(ask(processes[0]), "31 0", **fields))
    assert text_of(another) == said(31)


async def test_no_user_reaches_the_response_of_another(start, ask):
    process = await start(APP)
    begun = await read(create(ask(process), "100 0.01"), until=3)
    response_id, bob = begun[0].response.id, ask(process, "bob")
    for call in (
        bob.retrieve(response_id),
        bob.retrieve(response_id, stream=True),
        bob.cancel(response_id),
        bob.delete(response_id),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            await call
        assert refused.value.code == "not_found"
    with pytest.raises(openai.AuthenticationError):
        await ask(process, "mallory").retrieve(response_id)
    path = f"{process.url}/v1/responses"
    for guess in (f"alice%2F{response_id}", f"../alice/{response_id}", "resp_", "x", ""):
        answer = await process.client.get(
            f"{path}/{guess}", headers={"Authorization": "Bearer bob"}
        )
        assert answer.status_code in (404, 405)
        assert b"response.created" not in answer.content
    assert len(await read(resume(ask(process), begun))) > 50


async def test_a_deleted_response_is_gone(start, ask):
    responses = ask(await start(APP, REVIVE="1"))
    events = await read(create(responses, "3 0"))
    response_id = events[0].response.id
    await responses.delete(response_id)
    with pytest.raises(openai.NotFoundError):
        await responses.retrieve(response_id, stream=True)
    with pytest.raises(openai.NotFoundError):
        await responses.delete(response_id)


async def test_a_number_that_no_event_has_is_refused(start, ask):
    responses = ask(await start(APP))
    events = await read(create(responses, "3 0"))
    for number in (12, 10**19, "x", "-1", "1.5", "²"):
        with pytest.raises(openai.BadRequestError) as refused:
            await responses.retrieve(events[0].response.id, stream=True, starting_after=number)
        assert refused.value.param == "starting_after"


async def test_a_bad_request_gets_an_error_of_the_api(start):
    process = await start(APP)
    for content, status in (
        (b"{", 400),
        (b"[]", 400),
        (b'{"stream": "yes"}', 400),
        (b'{"a": NaN}', 400),
        (b'{"a": "' + b"x" * 1_100_000 + b'"}', 413),
        (b'{"model": "unknown"}', 404),
    ):
        answer = await process.client.post(
            f"{process.url}/v1/responses",
            content=content,
            headers={"Authorization": "Bearer alice"},
        )
        assert answer.status_code == status
        error = answer.json()["error"]
        assert error["message"]
        assert error["type"] in ("invalid_request_error", "not_found_error")


async def test_a_source_that_fails_is_a_failed_response_without_its_secrets(start, ask):
    responses = ask(await start(APP))
    for prompt in ("raise", "other"):
        events = await read(create(responses, prompt))
        assert events[-1].type == "response.failed"
        assert numbers(events) == list(range(len(events)))
        failed = await responses.retrieve(events[0].response.id)
        assert failed == events[-1].response
        assert (failed.status, failed.error.code) == ("failed", "server_error")
        assert await read(resume(responses, events[:-1])) == events[-1:]
        assert await read(resume(responses, events)) == []
        assert "secret" not in failed.error.message
        assert (await create(responses, prompt, stream=False)).status == "failed"
