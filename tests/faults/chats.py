"""Chats with one disturbance each, and what must hold at the end."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import pairwise

import httpx

from streamstores.client import Status, Stream
from tests.faults.app import pieces_of
from tests.faults.workers import Door, Fleet, Note, door_to

CHAT_SECONDS = 120.0
AT_ONCE = 20


class Tab:
    """A client behind a door of its own."""

    def __init__(self, door: Door, url: str, stream_id: str | None) -> None:
        self.door = door
        self.stream = Stream(
            f"{url}/stream",
            stream_id=stream_id,
            retries=8,
            backoff=0.1,
            on_change=lambda _: self._changed.set(),
        )
        self._changed = asyncio.Event()

    @property
    def told(self) -> str:
        return self.stream.text

    async def until(self, is_so: Callable[[Tab], bool]) -> None:
        while not is_so(self):
            self._changed.clear()
            await self._changed.wait()

    async def until_told(self, size: int) -> None:
        """Wait for that many characters, or for the end."""
        await self.until(lambda tab: len(tab.told) >= size or not tab.stream.loading)


class Chat:
    """One answer, read through one disturbance."""

    EVENTS = ("reconnect", "stop", "reload", "second tab", "kill", "restart")

    def __init__(self, fleet: Fleet, seed: int, number: int) -> None:
        self.fleet = fleet
        self.number = number
        self.chance = random.Random(f"{seed}.{number}")
        self.event = self.EVENTS[(seed + number) % len(self.EVENTS)]
        self.name = f"seed {seed}, chat {number}, event {self.event}"
        self.id = f"{seed}.{number}"
        self.prompt = f"prompt {self.id}"
        self.whole = "".join(pieces_of(self.prompt))
        self.was_stopped = False
        self.tabs: list[Tab] = []
        self._stack = AsyncExitStack()

    async def failure(self) -> str | None:
        """Run the chat. Returns what went wrong, or None."""
        try:
            await asyncio.wait_for(self._run(), CHAT_SECONDS)
        except asyncio.TimeoutError:
            return f"{self.name}: hangs; {self._state()}"
        except AssertionError as exc:
            return f"{self.name}: {exc}; {self._state()}"
        except Exception as exc:
            return f"{self.name}: {exc!r}; {self._state()}"
        return None

    async def open(self, stream_id: str | None = None) -> Tab:
        """A new tab. If the stream has an id, it reads the stream from its start."""
        stack = self._stack
        door, url = await stack.enter_async_context(door_to(self.fleet, self.chance))
        tab = Tab(door, url, stream_id)
        await stack.enter_async_context(tab.stream)
        self.tabs.append(tab)
        return tab

    async def _run(self) -> None:
        async with self._stack:
            tab = await self.open()
            await tab.stream.send(self.prompt, model="quick", stream_id=self.id)
            await tab.until_told(self.chance.randrange(len(self.whole)))
            disturb = getattr(self, f"_{self.event.replace(' ', '_')}")
            for reader in await disturb(tab):
                await self._to_the_end(reader, was_stopped=self.was_stopped)
                self._check_text(reader)
            afterwards = await self.open(self.id)
            await self._to_the_end(afterwards, was_stopped=False)
            self._check_text(afterwards)
            offset = afterwards.stream.offset
            assert offset == len(self.whole.encode()), f"ends at {offset}"
            self._check_calls()

    async def _reconnect(self, tab: Tab) -> list[Tab]:
        tab.door.cut()
        if self.chance.random() < 0.5:
            await tab.until_told(len(tab.told) + 20)
            tab.door.cut()
        return [tab]

    async def _stop(self, tab: Tab) -> list[Tab]:
        await self._stop_in(tab)
        return [tab]

    async def _reload(self, tab: Tab) -> list[Tab]:
        if self.chance.random() < 0.5:
            tab.door.cut()
        else:
            await tab.stream.aclose()
        return [await self.open(self.id)]

    async def _second_tab(self, tab: Tab) -> list[Tab]:
        """One more; perhaps the first one stops, and the second one's reconnect, before,
        meanwhile or after, leaves it stopped."""
        second = await self.open(self.id)
        await second.until_told(self.chance.randrange(len(tab.told) + 1))
        if self.chance.random() < 0.3:
            return [tab, second]
        cut = self.chance.choice(["before", "meanwhile", "after"])
        if cut == "before":
            second.door.cut()
        stopping = asyncio.ensure_future(self._stop_in(tab))
        if cut == "meanwhile":
            await asyncio.sleep(self.chance.random() * 0.01)
            second.door.cut()
        await stopping
        if cut == "after":
            second.door.cut()
        status = await second.stream.wait()
        assert status is tab.stream.status, f"one tab is {tab.stream.status}, one {status}"
        assert second.told == tab.told, "the two tabs were stopped at different places"
        assert await self._state_asked() == tab.stream.status, "a reconnect undid the Stop"
        return self.chance.sample([tab, second], 2)

    async def _kill(self, tab: Tab) -> list[Tab]:
        await self._end_worker(signal.SIGKILL)
        return [tab]

    async def _restart(self, tab: Tab) -> list[Tab]:
        await self._end_worker(signal.SIGTERM)
        return [tab]

    async def _end_worker(self, number: int) -> None:
        """A door, usually that of the worker with the model."""
        calls = self.fleet.notes(self.id)
        pid = calls[-1].pid if calls and self.chance.random() < 0.7 else None
        await self.fleet.end(pid, number, self.chance)

    async def _stop_in(self, tab: Tab) -> None:
        self.was_stopped = True
        await tab.stream.stop()
        status = tab.stream.status
        assert status in (Status.STOPPED, Status.DONE), f"{status} after a Stop"
        assert self.whole.startswith(tab.told), "the stopped text is another"

    async def _to_the_end(self, tab: Tab, *, was_stopped: bool) -> None:
        """Continue a stopped stream, as its user would."""
        while await tab.stream.wait() is not Status.DONE:
            assert tab.stream.status is not Status.ERROR, f"{tab.stream.error!r}"
            is_stopped = tab.stream.status is Status.STOPPED
            assert was_stopped or not is_stopped, "stopped without a Stop"
            await tab.stream.resume()

    async def _state_asked(self) -> str:
        """The stream's state, by any worker."""
        async with door_to(self.fleet, self.chance) as (_, url), httpx.AsyncClient() as client:
            while True:
                try:
                    answer = await client.get(f"{url}/stream/status", params={"id": self.id})
                except httpx.TransportError:  # that worker is dying
                    continue
                state: str = answer.json()["state"]
                return state

    def _check_text(self, tab: Tab) -> None:
        got, expected = tab.told.encode(), self.whole.encode()
        if got == expected:
            return
        pairs = enumerate(zip(got, expected, strict=False))
        at = next((at for at, (a, b) in pairs if a != b), min(len(got), len(expected)))
        raise AssertionError(
            f"differs at byte {at} of {len(expected)} (got {len(got)}): "
            f"{got[at : at + 40]!r} instead of {expected[at : at + 40]!r}"
        )

    def _check_calls(self) -> None:
        """A model is called again only if the process that had it ended."""
        calls = self.fleet.notes(self.id)
        assert calls, "no call was noted"
        for call, after in pairwise(calls):
            text = f"called again at {len(after.partial)}, though process {call.pid} lives"
            assert call.pid in self.fleet.ended, text
        for call in calls:
            right = self.whole.startswith(call.partial)
            assert right, f"called to go on with another text: {call.partial!r}"

    def _state(self) -> str:
        tabs = [f"{tab.stream.status} at {tab.stream.offset}" for tab in self.tabs]
        calls: list[Note] = self.fleet.notes(self.id)
        pids = [(each.pid, len(each.partial)) for each in calls]
        ended = sorted(self.fleet.ended)
        return f"tabs {tabs}, calls (process, at) {pids}, ended {ended}"


async def failures_of(fleet: Fleet, seed: int, count: int) -> list[str]:
    """What went wrong in `count` chats, `AT_ONCE` of them at a time."""
    numbers = iter(range(count))
    failures: list[str] = []

    async def chat_on() -> None:
        for number in numbers:
            failure = await Chat(fleet, seed, number).failure()
            if failure is not None:
                failures.append(failure)

    await asyncio.gather(*(chat_on() for _ in range(AT_ONCE)))
    return failures
