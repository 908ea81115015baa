"""The alert rules and the dashboard: each rule fires when it should, and every name exists."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from streamstores import (
    CorruptData,
    MemoryStreamStore,
    StoreUnavailable,
    StreamInfo,
    StreamStore,
    StreamStoreError,
    observation,
)
from streamstores.http import StreamRequest, create_stream_handler
from streamstores.integrations.opentelemetry import uninstrument
from streamstores.runs import Runs
from tests.http.serving import serving
from tests.telemetry.scrapes import Scraped, Series, firing, promtool
from tests.unit.scripted_runs import Reviving, Script, abandon, until
from tests.wrapping import Wrapping

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs" / "operations" / "streamstores-alerts.yml"
DASHBOARD = ROOT / "docs" / "operations" / "streamstores-dashboard.json"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())
CALM, PROVOKED = 4, 4


@pytest.fixture
def scraped() -> Iterator[Scraped]:
    yield Scraped()
    uninstrument()


class Failing(Wrapping):
    """Raises an error from every `info` if it is told to, and takes its time if told to."""

    error: StreamStoreError | None = None
    seconds = 0.0

    async def info(self, stream_id: str) -> StreamInfo:
        if self.error is not None:
            raise self.error
        info: StreamInfo = await super().info(stream_id)
        return info

    async def append(self, stream_id: str, *chunks: bytes, **options: Any) -> StreamInfo:
        await asyncio.sleep(self.seconds)
        info: StreamInfo = await super().append(stream_id, *chunks, **options)
        return info


class Scene:
    """A store with a calm traffic, and what can happen to it."""

    def __init__(self, store: StreamStore, failing: Failing) -> None:
        self.store = store
        self.failing = failing
        self.count = 0

    async def calm(self) -> None:
        """What happens in every minute."""
        observer = observation.observer
        assert observer is not None
        self.count += 1
        stream_id = f"calm-{self.count}"
        runs = Runs(self.store)
        await runs.start(stream_id, Script().say(b"x", None).source())
        await until(self.store, stream_id, lambda info: info.state == "done")
        observer.delivered(self.store, await self.store.info(stream_id))
        await runs.aclose()
        await self.request()

    async def request(self) -> int:
        handler = create_stream_handler(parrot, self.store, watch_signals=False)
        async with handler, serving(handler, lifespan="off") as url:
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"{url}/stream/status?id=calm-1")
                return answer.status_code

    async def call(self, error: StreamStoreError) -> None:
        self.failing.error = error
        with suppress(StreamStoreError):
            await self.store.info("calm-1")
        self.failing.error = None

    async def slow_append(self) -> None:
        self.failing.seconds = 1.2
        await self.store.append(await self._new_stream(), b"x")
        self.failing.seconds = 0.0

    async def late_delivery(self) -> None:
        stream_id = await self._new_stream()
        info = await self.store.append(stream_id, b"x")
        await asyncio.sleep(2.6)
        assert observation.observer is not None
        observation.observer.delivered(self.store, info)

    async def death(self, **options: Any) -> None:
        """A producer that dies, with a follower in another process."""
        stream_id = await self._new_stream(create=False)
        dying = Runs(self.store, heartbeat=0.05)
        await dying.start(stream_id, Script().say(b"x").source())
        await until(self.store, stream_id, lambda info: info.tail == 1)
        await abandon(dying, stream_id)
        other = Runs(self.store, heartbeat=0.05, revive=Reviving(), **options)
        follower = await other.follow(await self.store.info(stream_id), 1)
        reading = asyncio.ensure_future(follower.batch())
        info = await until(
            self.store,
            stream_id,
            lambda info: info.state != "streaming" or "takeovers" in info.attributes,
        )
        assert info.state == ("error" if options else "streaming")
        reading.cancel()
        await follower.aclose()
        await other.aclose()

    async def failed_run(self) -> None:
        runs, stream_id = Runs(self.store), await self._new_stream(create=False)
        await runs.start(stream_id, Script().say(ValueError()).source())
        await until(self.store, stream_id, lambda info: info.state == "error")
        await runs.aclose()

    async def tell(self, what: Callable[[observation.Observer], None]) -> None:
        assert observation.observer is not None
        for _ in range(3):
            what(observation.observer)

    async def failed_request(self) -> None:
        self.failing.error = StoreUnavailable("away")
        assert await self.request() == 503
        self.failing.error = None

    async def _new_stream(self, *, create: bool = True) -> str:
        self.count += 1
        if create:
            await self.store.create(f"new-{self.count}")
        return f"new-{self.count}"


async def parrot(request: StreamRequest) -> AsyncIterator[str]:
    yield request.prompt


# Notices, polls and pools are those of backends: tests/telemetry/test_backends.py provokes them
# on real servers and counts them, and here the counts become an alert.
PROVOCATIONS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "StreamstoresStoreFails": lambda scene: scene.call(StoreUnavailable("away")),
    "StreamstoresCorruptData": lambda scene: scene.call(CorruptData("odd")),
    "StreamstoresAppendsSlow": lambda scene: scene.slow_append(),
    "StreamstoresDeliverySlow": lambda scene: scene.late_delivery(),
    "StreamstoresProducersLost": lambda scene: scene.death(),
    "StreamstoresRunsFail": lambda scene: scene.failed_run(),
    "StreamstoresTakeoversFail": lambda scene: scene.death(max_takeovers=0),
    "StreamstoresNoticesInterrupted": lambda scene: scene.tell(
        lambda observer: observer.notices_interrupted("failing")
    ),
    "StreamstoresNoticesLost": lambda scene: scene.tell(
        lambda observer: observer.polled(has_found=True)
    ),
    "StreamstoresPoolFull": lambda scene: scene.tell(
        lambda observer: observer.waited_for_connection("failing", 0.6)
    ),
    "StreamstoresRequestsFail": lambda scene: scene.failed_request(),
}


def test_every_rule_is_provoked_and_the_file_is_valid() -> None:
    assert sorted(ALERTS) == sorted(PROVOCATIONS)
    run = subprocess.run(
        [promtool(), "check", "rules", RULES], capture_output=True, text=True, check=False
    )
    assert f"{len(ALERTS)} rules found" in run.stdout, run.stdout + run.stderr


@pytest.mark.long  # each waits until its rule has held for long enough
@pytest.mark.parametrize("alert", ALERTS)
async def test_an_alert_fires_when_it_is_provoked_and_not_before(
    scraped: Scraped, alert: str, tmp_path: Path
) -> None:
    promtool()
    failing = Failing(MemoryStreamStore())
    async with scraped.instrument(failing, name="failing") as store:
        scene = Scene(store, failing)
        scrapes: list[Series] = []
        for _ in range(CALM):
            await scene.calm()
            scrapes.append(scraped.scrape())
        assert not firing(RULES, scrapes, alert, tmp_path)
        for _ in range(PROVOKED):
            await scene.calm()
            await PROVOCATIONS[alert](scene)
            scrapes.append(scraped.scrape())
        assert firing(RULES, scrapes, alert, tmp_path)


async def test_every_metric_of_the_rules_and_the_dashboard_exists(scraped: Scraped) -> None:
    failing = Failing(MemoryStreamStore())
    async with scraped.instrument(failing, name="failing") as store:
        scene = Scene(store, failing)
        await scene.calm()
        await scene.death()
        observer = observation.observer
        assert observer is not None
        observer.retried(StoreUnavailable("away"))
        observer.waited_for_connection("failing", 0.1)
        observer.swept("failing", 1)
        existing = {re.split(r"\{", name)[0] for name in scraped.scrape()}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    labels = {"streamstores_store", "streamstores_operation", "streamstores_outcome"}
    labels |= {"streamstores_takeover_reason", "streamstores_poll_found"}
    named = set(re.findall(r"\bstreamstores_\w+", " ".join([*queries, RULES.read_text()])))
    assert len(named - labels) > 10
    assert named - labels <= existing
    # And every metric that exists is on the dashboard.
    families = {re.sub(r"_(bucket|count|sum|created)$", "", each) for each in existing}
    families.discard("target_info")
    shown = {re.sub(r"_(bucket|count|sum)$", "", each) for each in named - labels}
    assert families == shown
