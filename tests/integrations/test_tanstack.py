"""`AGUIRuns`, asked by the npm package `@tanstack/ai-client`.

The package comes from npm, or from the folder that `STREAMSTORES_TEST_TANSTACK` names.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.http.cutting_proxy import cutting_proxy
from tests.integrations.node_clients import script_with_package, told_by

APP = "tests.integrations.pydantic_ai_app:app"
CLIENT = Path(__file__).with_name("tanstack_client.mjs")

pytestmark = pytest.mark.long


def said(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return script_with_package(CLIENT, "@tanstack/ai-client@0.33", tmp_path_factory)


@pytest.fixture
def ask(script: Path):
    """What a client prints that uses a process."""
    return lambda url, **options: told_by(script, url=url, **options)


async def test_a_chat_goes_on_by_itself_after_every_cut(start, ask, calls):
    process = await start(APP)
    async with cutting_proxy(process.url) as (proxy, url):
        proxy.answer_bytes = 6_000
        found = await ask(url, prompt="300 0.002")
    assert proxy.connections > 2
    assert found["answer"] == found["pieces"] == said(300)
    assert found["types"][-1] == "RUN_FINISHED"
    assert calls() == 1


async def test_a_run_is_joined_late_and_twice_in_another_process(start, ask, calls):
    process, other = await start(APP), await start(APP)
    begun = await ask(process.url, prompt="100 0.02", until=5)
    joined = await asyncio.gather(*(ask(other.url, run=begun["run"]) for _ in range(2)))
    joined.append(await ask(process.url, run=begun["run"]))  # after the end
    for found in joined:
        assert found["pieces"] == said(100)
        assert found["types"][0] == "RUN_STARTED"
        assert found["types"][-1] == "RUN_FINISHED"
    assert calls() == 1


async def test_a_stop_and_a_dead_process_end_a_joined_run_with_an_error(start, ask):
    process, other = await start(APP), await start(APP)
    stopped, killed = [
        (await ask(process.url, prompt="500 0.02", until=5))["run"] for _ in range(2)
    ]
    joined = [asyncio.ensure_future(ask(other.url, run=run)) for run in (stopped, killed)]
    answer = await other.client.post(f"{other.url}/agent/t/{stopped}/stop")
    assert answer.json() == {"stopped": True}
    assert (await joined[0])["types"][-1] == "RUN_ERROR"
    await process.kill()
    assert (await joined[1])["types"][-1] == "RUN_ERROR"


async def test_the_run_of_another_user_or_of_none_is_not_found(start, ask):
    process = await start(APP)
    run = (await ask(process.url, prompt="3 0"))["run"]
    params = {"threadId": "t", "runId": run, "offset": "-1"}
    url = f"{process.url}/agent"
    assert (await process.client.get(url, params=params)).status_code == 200
    mallory = {"x-user": "mallory"}
    foreign = await process.client.get(url, params=params, headers=mallory)
    assert foreign.status_code == 404
    unknown = await process.client.get(url, params={**params, "runId": "none"})
    assert unknown.status_code == 404
    wrong = await process.client.get(url, params={**params, "offset": "-2"})
    assert wrong.status_code == 400
