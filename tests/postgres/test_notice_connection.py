"""The connection for notices when it is slow, silent, refused, closed or never read."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import nullcontext
from urllib.parse import urlsplit

import asyncpg
import pytest

from streamstores import InvalidRequest, PostgresStreamStore, open_store
from streamstores.backends._postgres import notices
from tests.postgres.conftest import (
    listening,
    locked,
    new_id,
    schema_of,
    until,
    waits_for_a_lock,
)
from tests.postgres.proxy import proxy_to
from tests.postgres.test_notices import followed, hears
from tests.services.postgres import with_options

FOLLOWER = """
import asyncio, sys
from streamstores import follow, open_store
from streamstores.backends._postgres import notices

notices.SILENCE_SECONDS = 1

async def main():
    async with open_store(sys.argv[1]) as store:
        async for record in follow(store, sys.argv[2]):
            print(record.data.decode(), flush=True)

asyncio.run(main())
"""


def without_options(url: str) -> str:
    return urlsplit(url)._replace(query="").geturl()


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if each.name == "streamstores.postgres"]


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer than a store waits before it doubts the notices."""
    monkeypatch.setattr(notices, "ANSWER_SECONDS", 60.0)
    monkeypatch.setattr(notices, "ECHO_SECONDS", 60.0)


# ---- closing


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("is_watching", [False, True], ids=["sending", "listening"])
async def test_closing_sends_the_last_notice_however_young_the_connection_is(
    url, caplog, monkeypatch, is_watching
):
    """Closed at every moment from the first append until the connection is long there."""
    monkeypatch.setattr(notices, "FAREWELL_SECONDS", 60.0)
    stream_id = new_id()
    async with open_store(with_options(url, poll_interval=600)) as listener:
        await listener.create(stream_id)
        follower = await hears(listener, listener, stream_id)
        for step in range(12):
            producer = open_store(url)
            await producer.info(stream_id)
            with producer.changes.subscribe("watched") if is_watching else nullcontext():
                await producer.append(stream_id, b"%d" % step)
                for _ in range(step):
                    await asyncio.sleep(0)
                await asyncio.sleep(0.002 * (step % 6))
                await producer.aclose()
            assert not producer._notices._task.cancelled(), "it waited for the whole farewell"
            record = await asyncio.wait_for(follower.__anext__(), 30)
            assert record.data == b"%d" % step
    assert warnings_in(caplog) == []


@pytest.mark.usefixtures("unhurried")
async def test_closing_while_the_connection_is_being_made_waits_for_it_and_sends(url, caplog):
    stream_id = new_id()
    async with (
        open_store(with_options(url, poll_interval=600)) as listener,
        proxy_to(url) as proxy,
    ):
        await listener.create(stream_id)
        follower = await hears(listener, listener, stream_id)
        producer = open_store(proxy.url)
        await producer.info(stream_id)
        proxy.hold()
        with producer.changes.subscribe(stream_id):
            await producer.append(stream_id, b"last")

            async def is_connecting() -> bool:
                return proxy.held == 1

            await until(is_connecting)
            closing = asyncio.ensure_future(producer.aclose())
            await asyncio.sleep(0)
            proxy.release()
            await asyncio.wait_for(closing, 30)
        assert (await asyncio.wait_for(follower.__anext__(), 30)).data == b"last"
    assert warnings_in(caplog) == []


async def test_a_call_that_closing_lets_end_is_heard_elsewhere(url, admin):
    """Its notice is due when everything else has been sent."""
    stream_id, name = new_id(), new_id()
    async with open_store(with_options(url, poll_interval=600)) as listener:
        await listener.create(stream_id)
        follower = await hears(listener, listener, stream_id)
        producer = open_store(with_options(url, application_name=name))
        await producer.info(stream_id)
        async with locked(url, stream_id):
            append = asyncio.ensure_future(producer.append(stream_id, b"late"))
            await until(lambda: waits_for_a_lock(admin, name))
            closing = asyncio.ensure_future(producer.aclose())
            for _ in range(20):  # whatever closing does first, it does
                await asyncio.sleep(0.01)
        await closing
        assert (await append).tail == len(b"livelate")
        assert (await asyncio.wait_for(follower.__anext__(), 30)).data == b"late"


async def test_closing_does_not_wait_for_a_connection_that_cannot_be_made(url, monkeypatch):
    monkeypatch.setattr(notices, "FAREWELL_SECONDS", 0.2)
    async with proxy_to(url) as proxy:
        store = open_store(proxy.url)
        stream_id = new_id()
        await store.create(stream_id)
        proxy.hold()
        await store.append(stream_id, b"1")
        await asyncio.wait_for(store.aclose(), 10)


# ---- a connection that answers no more


@pytest.mark.parametrize("statement", [b"LISTEN", b"SELECT 1"])
async def test_a_silent_connection_of_a_given_pool_is_replaced(url, monkeypatch, statement):
    """The pool sets no timeout for its statements, so the store's own bounds are the only
    ones: for LISTEN, and for the question whether the connection is still there."""
    monkeypatch.setattr(notices, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(notices, "ANSWER_SECONDS", 0.5)
    stream_id = new_id()
    async with (
        open_store(url) as other,
        proxy_to(without_options(url)) as proxy,
        asyncpg.create_pool(proxy.url, min_size=2, max_size=5) as pool,
        PostgresStreamStore(pool, schema=schema_of(url), poll_interval=600) as store,
    ):
        await other.create(stream_id)
        if statement == b"LISTEN":
            proxy.silence_at(statement)
            (following,) = await followed(store, [stream_id], 1)
        else:
            follower = await hears(store, other, stream_id)
            proxy.silence_at(statement)
            following = asyncio.ensure_future(follower.__anext__())

        async def is_silent() -> bool:
            return proxy.silenced == 1

        await until(is_silent)
        await other.append(stream_id, b"heard", state="done")
        await asyncio.wait_for(following, 30)


async def test_a_notice_that_a_silent_connection_took_is_sent_again(url, monkeypatch):
    monkeypatch.setattr(notices, "ANSWER_SECONDS", 0.5)
    stream_id = new_id()
    async with (
        open_store(with_options(url, poll_interval=600)) as listener,
        proxy_to(without_options(url)) as proxy,
        asyncpg.create_pool(proxy.url, min_size=2, max_size=5) as pool,
        PostgresStreamStore(pool, schema=schema_of(url)) as store,
    ):
        await listener.create(stream_id)
        follower = await hears(listener, listener, stream_id)
        proxy.silence_at(b"pg_notify")
        await store.append(stream_id, b"1")

        async def is_silent() -> bool:
            return proxy.silenced == 1

        await until(is_silent)
        assert (await asyncio.wait_for(follower.__anext__(), 30)).data == b"1"


async def test_an_echo_that_arrives_before_its_sending_returns_has_arrived(
    url, caplog, monkeypatch
):
    """Else the store would believe, in the first quiet seconds, that notices do not arrive."""
    monkeypatch.setattr(notices, "ECHO_SECONDS", 0.05)
    has_come, send, note = asyncio.Event(), notices.Notices._send_echo, notices.Notices._on_echo

    async def send_slowly(self: notices.Notices) -> None:
        await send(self)
        await has_come.wait()

    def note_and_tell(self: notices.Notices) -> None:
        note(self)
        has_come.set()

    monkeypatch.setattr(notices.Notices, "_send_echo", send_slowly)
    monkeypatch.setattr(notices.Notices, "_on_echo", note_and_tell)
    stream_id = new_id()
    async with open_store(url) as store:
        await store.create(stream_id)
        with store.changes.subscribe(stream_id):
            await has_come.wait()
            await asyncio.sleep(0.5)  # quiet for long enough to doubt
    assert warnings_in(caplog) == []


# ---- LISTEN that is refused


@pytest.mark.usefixtures("unhurried")
async def test_a_store_that_may_not_listen_still_sends_notices_and_warns_once(url, caplog):
    stream_id = new_id()
    async with (
        open_store(with_options(url, poll_interval=600)) as listener,
        proxy_to(url) as proxy,
    ):
        proxy.replace(b"LISTEN ", b"LASTEN ")  # a syntax error: the server refuses it
        await listener.create(stream_id)
        follower = await hears(listener, listener, stream_id)
        with caplog.at_level(logging.WARNING, "streamstores.postgres"):
            async with open_store(proxy.url) as store:
                with store.changes.subscribe(stream_id):

                    async def is_refused() -> bool:
                        return "syntax error" in caplog.text

                    await until(is_refused)
                    for number in range(20):
                        await store.append(stream_id, b"%d" % number)
                        record = await asyncio.wait_for(follower.__anext__(), 30)
                        assert record.data == b"%d" % number
        assert len(warnings_in(caplog)) == 1


async def test_a_store_listens_as_soon_as_it_may(url, monkeypatch):
    stream_id = new_id()
    async with open_store(url) as other, proxy_to(url) as proxy:
        proxy.replace(b"LISTEN ", b"LASTEN ")
        await other.create(stream_id)
        async with open_store(with_options(proxy.url, poll_interval=600)) as store:
            (following,) = await followed(store, [stream_id], 1)
            proxy.replace(b"LISTEN ", b"LISTEN ")
            await other.append(stream_id, b"heard", state="done")
            assert await asyncio.wait_for(following, 30) == b"heard"


# ---- a listener that takes nothing


async def test_the_session_of_a_stopped_listener_ends_and_frees_its_snapshot(url, admin):
    """Else the server would stay blocked in a write to it, inside a transaction."""
    name, stream_id = f"stopped-{new_id()}", new_id()
    sessions = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1"
    async with open_store(url) as producer:
        await producer.create(stream_id)
        slow = with_options(url, application_name=name, poll_interval=600)
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-c", FOLLOWER, slow, stream_id], stdout=asyncio.subprocess.PIPE
        )
        try:
            pid = await listening(admin, name)
            process.send_signal(signal.SIGSTOP)
            filler = "\n".join(["none", *[f"1 {'x' * 250}"] * 27])
            channel = f"{schema_of(url)}.streamstores_"
            flood = "SELECT pg_notify($1, $2 || n) FROM generate_series(1, 1000) AS n"

            async def is_gone() -> bool:
                await admin.execute(flood, channel, filler)
                return await admin.fetchval(sessions, pid) is None

            await until(is_gone, seconds=120)
            process.send_signal(signal.SIGCONT)
            await producer.append(stream_id, b"still here", state="done")
            output, _ = await asyncio.wait_for(process.communicate(), 60)
            assert output == b"still here\n"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


# ---- a channel that has no room for its name


def test_names_too_long_for_a_channel_are_refused():
    """NOTIFY refuses such a channel, and LISTEN silently cuts its name."""
    url = "postgresql://localhost/x"
    schema, prefix = "s" * 31, "p" * 31
    PostgresStreamStore(url, schema=schema, table_prefix=prefix)
    with pytest.raises(InvalidRequest, match="at most 62 characters"):
        PostgresStreamStore(url, schema=schema, table_prefix=prefix + "p")
    PostgresStreamStore(url, schema=schema, table_prefix=prefix + "p", notify=False)


async def test_the_longest_names_that_are_allowed_work(url):
    # Random, because a name that is cut would be that of the other store.
    prefix = "p" * (62 - len(schema_of(url)) - 8) + new_id()[:8]
    prefix = prefix[:48]
    stream_id = new_id()
    slow = with_options(url, table_prefix=prefix, poll_interval=600)
    async with open_store(slow) as store, open_store(slow) as other:
        await store.create(stream_id)
        await hears(store, other, stream_id)
