"""The JavaScript client in a real browser, against a real handler over a breakable network."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.client import Client
from tests.browser.conftest import DemoServer, OpenPage
from tests.browser.proxy import Proxy
from tests.browser.serve import FIRST_PART_BYTES, ODD_PIECES, PARTS, TEXT

pytestmark = pytest.mark.asyncio(loop_scope="session")

BLANK = "/info"  # any page of the server's origin
NEVER = 3_600_000  # a backoff that only something else can end


async def open_client(open_page: OpenPage, url: str, **options: Any) -> Client:
    page = await open_page(url + BLANK)
    return await Client(page).create(**options)


async def open_streaming(open_page: OpenPage, url: str, **options: Any) -> Client:
    """A client that has read the first part of an answer, whose second waits for `go`."""
    client = await open_client(open_page, url, **options)
    await client.send()
    await client.until_offset(FIRST_PART_BYTES)
    return client


async def until_complete(client: Client) -> None:
    await client.until_status("done")
    assert await client.text() == TEXT


async def get_status(client: Client) -> dict[str, Any]:
    """The status of the stream at the server."""
    status: dict[str, Any] = await client.page.evaluate(
        "fetch('/plain/stream/status?id=' + stream.streamId).then((answer) => answer.json())"
    )
    return status


async def test_an_answer_arrives_whole(open_page: OpenPage, demo: DemoServer) -> None:
    client = await open_streaming(open_page, demo.url)
    assert await client.text() == PARTS[0]
    await demo.go(client.prompt)
    await until_complete(client)
    assert (await client.snapshot())["offset"] == len(TEXT.encode())
    assert await client.statuses() == ["idle", "streaming", "done"]


@pytest.mark.parametrize("piece_bytes", [1, 3, 65_536])
async def test_every_character_survives_however_the_network_cuts_it(
    open_page: OpenPage, demo: DemoServer, piece_bytes: int
) -> None:
    async with Proxy(demo.port, piece_bytes=piece_bytes) as proxy:
        client = await open_client(open_page, proxy.url, model="odd")
        await client.send()
        await client.until_status("done")
        text = await client.page.evaluate("JSON.stringify(stream.text)")
        assert json.loads(text) == "".join(ODD_PIECES)
        events = await client.page.evaluate("events.map(({ name, data }) => [name, data])")
        assert events == [["usage", '{"outputTokens": 7}'], ["message", "not text"]]


async def test_an_error_of_the_model_ends_the_stream(
    open_page: OpenPage, demo: DemoServer
) -> None:
    client = await open_client(open_page, demo.url, model="failing")
    await client.send()
    await client.until_status("error")
    snapshot = await client.snapshot()
    assert snapshot["text"] == "so far "
    assert snapshot["error"] == {"code": "stream_error", "message": "The model failed."}
    assert snapshot["canResume"] is False


async def test_a_request_that_is_refused_is_an_error(
    open_page: OpenPage, demo: DemoServer
) -> None:
    client = await open_client(open_page, demo.url, model="unknown")
    await client.send()
    await client.until_status("error")
    assert (await client.snapshot())["error"]["code"] == "unknown_model"


async def test_a_connection_that_breaks_again_and_again_loses_and_doubles_nothing(
    open_page: OpenPage, demo: DemoServer, proxy: Proxy
) -> None:
    client = await open_streaming(open_page, proxy.url)
    offset = FIRST_PART_BYTES
    for part in PARTS[1:]:  # more often than the budget allows without progress
        proxy.cut()
        await demo.go(client.prompt, parts=1)
        offset += len(part.encode())
        await client.until_offset(offset)
    await until_complete(client)
    assert (await client.statuses()).count("reconnecting") == len(PARTS) - 1
    assert "disconnected" not in await client.statuses()


async def test_a_client_that_gave_up_resumes_at_its_offset(
    open_page: OpenPage, demo: DemoServer, proxy: Proxy
) -> None:
    client = await open_streaming(open_page, proxy.url)
    proxy.refusing = True
    proxy.cut()
    await demo.go(client.prompt)
    await client.until_status("disconnected")
    snapshot = await client.snapshot()
    assert snapshot["canResume"] is True
    assert snapshot["error"]["code"] == "network"
    assert snapshot["text"] == PARTS[0]
    proxy.refusing = False
    await client.call("resume")
    await until_complete(client)


async def test_stop_keeps_the_saved_text_and_continue_goes_on(
    open_page: OpenPage, demo: DemoServer
) -> None:
    client = await open_streaming(open_page, demo.url)
    assert await client.ask("stop") is True
    stopped = await client.snapshot()
    assert (stopped["status"], stopped["canResume"]) == ("stopped", True)
    status = await get_status(client)
    assert (status["state"], status["tail"]) == ("stopped", stopped["offset"])
    assert stopped["text"] == PARTS[0]
    await client.call("resume")
    await client.until_status("streaming")
    await demo.go(client.prompt)
    await until_complete(client)


async def test_a_stop_before_the_answer_has_come_stops_the_stream(
    open_page: OpenPage, demo: DemoServer
) -> None:
    client = await open_client(open_page, demo.url)
    stopped = await client.page.evaluate(
        "(it) => (void stream.send(it), stream.stop())", client.prompt
    )
    assert stopped is True
    assert (await client.snapshot())["status"] == "stopped"
    assert (await get_status(client))["state"] == "stopped"


async def test_a_stop_that_cannot_be_delivered_is_not_shown(
    open_page: OpenPage, demo: DemoServer, proxy: Proxy
) -> None:
    client = await open_streaming(open_page, proxy.url)
    proxy.refusing = True
    proxy.cut()
    await client.until_status("disconnected")
    assert await client.ask("stop") is False
    snapshot = await client.snapshot()
    assert snapshot["status"] == "disconnected"
    assert snapshot["error"]["code"] == "network"


async def test_a_stop_over_a_broken_line_reads_the_rest(
    open_page: OpenPage, demo: DemoServer, proxy: Proxy
) -> None:
    client = await open_streaming(open_page, proxy.url, backoff=NEVER)
    proxy.cut()
    await client.until_status("reconnecting")
    await demo.go(client.prompt, parts=1)
    size = len((PARTS[0] + PARTS[1]).encode())
    await client.until(
        "fetch('/plain/stream/status?id=' + stream.streamId)"
        ".then((answer) => answer.json()).then(({ tail }) => tail === it)",
        size,
    )
    assert await client.ask("stop") is True
    snapshot = await client.snapshot()
    assert snapshot["status"] == "stopped"
    assert snapshot["text"] == PARTS[0] + PARTS[1]


async def test_a_reload_in_the_middle_reads_the_whole_answer(
    open_page: OpenPage, demo: DemoServer
) -> None:
    client = await open_streaming(open_page, demo.url, persist="chat")
    stream_id = (await client.snapshot())["streamId"]
    await client.page.reload()
    await client.create(persist="chat")
    await client.until_offset(FIRST_PART_BYTES)
    await demo.go(client.prompt)
    await until_complete(client)
    assert (await client.snapshot())["streamId"] == stream_id
    assert await client.statuses() == ["reconnecting", "streaming", "done"]


async def test_a_reload_does_not_continue_a_stopped_stream(
    open_page: OpenPage, demo: DemoServer
) -> None:
    client = await open_streaming(open_page, demo.url, persist="chat")
    await client.ask("stop")
    await client.page.reload()
    await client.create(persist="chat")
    await client.until_status("stopped")
    assert (await client.snapshot())["text"] == PARTS[0]
    assert (await get_status(client))["state"] == "stopped"


async def test_a_stored_id_whose_stream_is_gone_is_an_error_once(
    open_page: OpenPage, demo: DemoServer
) -> None:
    page = await open_page(demo.url + BLANK)
    await page.evaluate("sessionStorage.setItem('chat', 'long gone')")
    client = await Client(page).create(persist="chat")
    await client.until_status("error")
    assert (await client.snapshot())["error"]["code"] == "not_found"
    await page.reload()
    await client.create(persist="chat")
    assert (await client.snapshot())["status"] == "idle"


async def test_two_tabs_follow_one_stream_and_one_stop_stops_both(
    open_page: OpenPage, demo: DemoServer
) -> None:
    first = await open_streaming(open_page, demo.url)
    stream_id = (await first.snapshot())["streamId"]
    second = Client(await open_page(demo.url + BLANK, first.page.context))
    await second.create(id=stream_id)
    await demo.go(first.prompt, parts=1)
    await second.until("stream.offset > it", FIRST_PART_BYTES)
    assert await second.ask("stop") is True
    await first.until_status("stopped")
    assert await first.text() == await second.text()


async def test_a_continue_in_one_tab_reaches_the_other(
    open_page: OpenPage, demo: DemoServer
) -> None:
    first = await open_streaming(open_page, demo.url, lookEvery=20)
    stream_id = (await first.snapshot())["streamId"]
    second = await open_client(open_page, demo.url, id=stream_id)
    await second.until_offset(FIRST_PART_BYTES)
    assert await second.ask("stop") is True
    await first.until_status("stopped")
    await second.call("resume")
    await first.until("statuses.at(-1) === 'streaming'")
    await demo.go(first.prompt)
    for client in first, second:
        await until_complete(client)


async def test_a_stopped_page_that_becomes_visible_looks_at_once(
    open_page: OpenPage, demo: DemoServer
) -> None:
    first = await open_streaming(open_page, demo.url, lookEvery=0)
    stream_id = (await first.snapshot())["streamId"]
    second = await open_client(open_page, demo.url, id=stream_id)
    await second.until_offset(FIRST_PART_BYTES)
    await second.ask("stop")
    await first.until_status("stopped")
    await second.call("resume")
    await second.until_status("streaming")
    await demo.go(first.prompt)
    await until_complete(second)
    assert (await first.snapshot())["status"] == "stopped"
    await first.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await until_complete(first)


async def test_two_tabs_share_an_id_in_local_storage(
    open_page: OpenPage, demo: DemoServer
) -> None:
    first = await open_streaming(open_page, demo.url, persist="chat", shared=True)
    second = Client(await open_page(demo.url + BLANK, first.page.context))
    await second.create(persist="chat", shared=True)
    await demo.go(first.prompt)
    for client in first, second:
        await until_complete(client)


async def test_a_reconnect_never_undoes_the_stop_of_another_tab(
    open_page: OpenPage, demo: DemoServer, proxy: Proxy
) -> None:
    first = await open_streaming(open_page, proxy.url, backoff=NEVER)
    stream_id = (await first.snapshot())["streamId"]
    proxy.cut()
    await first.until_status("reconnecting")
    second = await open_client(open_page, demo.url, id=stream_id)
    await second.until_offset(FIRST_PART_BYTES)
    await second.ask("stop")
    await first.call("resume")  # ends the pause: still an automatic reconnect
    await first.until_status("stopped")
    assert await first.text() == await second.text()
    assert (await get_status(second))["state"] == "stopped"


async def test_a_server_that_is_killed_and_started_again_goes_on(
    open_page: OpenPage, mortal_demo: DemoServer
) -> None:
    client = await open_streaming(open_page, mortal_demo.url, persist="chat")
    await mortal_demo.kill()
    await client.until_status("disconnected")
    await mortal_demo.start()
    await client.call("resume")
    await until_complete(client)


async def test_a_server_that_is_killed_and_started_again_is_found_by_itself(
    open_page: OpenPage, mortal_demo: DemoServer
) -> None:
    client = await open_streaming(open_page, mortal_demo.url, maxReconnects=1_000)
    await mortal_demo.kill()
    await client.until_status("reconnecting")
    await mortal_demo.start()
    await until_complete(client)
    assert "disconnected" not in await client.statuses()


async def test_coming_online_reconnects_at_once(
    open_page: OpenPage, demo: DemoServer, proxy: Proxy
) -> None:
    client = await open_streaming(open_page, proxy.url, backoff=NEVER)
    await client.page.context.set_offline(True)
    proxy.cut()
    await client.until_status("reconnecting")
    await client.page.context.set_offline(False)
    await demo.go(client.prompt)
    await until_complete(client)


async def test_coming_online_replaces_a_connection_that_may_be_dead(
    open_page: OpenPage, demo: DemoServer, proxy: Proxy
) -> None:
    client = await open_streaming(open_page, proxy.url, backoff=NEVER)
    await client.page.context.set_offline(True)
    await client.page.context.set_offline(False)
    await client.until("statuses.length === 4")
    await demo.go(client.prompt)
    await until_complete(client)
    statuses = await client.statuses()
    assert statuses == ["idle", "streaming", "reconnecting", "streaming", "done"]


async def test_becoming_visible_reconnects_after_giving_up(
    open_page: OpenPage, demo: DemoServer, proxy: Proxy
) -> None:
    client = await open_streaming(open_page, proxy.url)
    proxy.refusing = True
    proxy.cut()
    await client.until_status("disconnected")
    proxy.refusing = False
    await client.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await demo.go(client.prompt)
    await until_complete(client)


async def test_a_page_that_comes_back_from_the_back_forward_cache_goes_on(
    open_page: OpenPage, demo: DemoServer
) -> None:
    client = await open_streaming(open_page, demo.url)
    page = client.page
    await page.evaluate(
        "window.addEventListener('pageshow', (event) => (window.persisted = event.persisted))"
    )
    await page.goto(demo.url + "/plain/stream.js")
    await page.go_back(wait_until="commit")
    await client.until("window.persisted === true")
    await demo.go(client.prompt)
    await until_complete(client)
    assert "disconnected" in await client.statuses()


async def test_a_view_that_goes_and_comes_back_reads_on(
    open_page: OpenPage, demo: DemoServer
) -> None:
    client = await open_streaming(open_page, demo.url)
    await client.page.evaluate("(unsubscribe(), stream.destroy())")
    assert (await client.snapshot())["status"] == "disconnected"
    await client.page.evaluate("void stream.subscribe(() => {})")
    await demo.go(client.prompt)
    await until_complete(client)
