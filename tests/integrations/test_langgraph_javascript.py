"""LangGraph's endpoint for runs, asked by the npm package `@langchain/langgraph-sdk`.

The package comes from npm, or from the folder that `STREAMSTORES_TEST_LANGCHAIN` names.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.http.cutting_proxy import cutting_proxy
from tests.integrations.node_clients import script_with_package, told_by

APP = "tests.integrations.langgraph_app:app"
CLIENT = Path(__file__).with_name("langgraph_client.mjs")

pytestmark = pytest.mark.long


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return script_with_package(CLIENT, "@langchain/langgraph-sdk@1", tmp_path_factory)


@pytest.fixture
def ask(script: Path):
    """What a client prints that uses a process."""
    return lambda url, **options: told_by(script, url=f"{url}/graphs", **options)


async def test_it_joins_late_twice_and_in_the_middle_in_another_process(start, ask, calls):
    process, other = await start(APP), await start(APP)
    begun = await ask(process.url, graph="agent", prompt="100 0.02", until=5)
    run, last = begun["runId"], begun["ids"][-1]
    late, again, rest = await asyncio.gather(
        ask(process.url, run=run), ask(other.url, run=run), ask(other.url, run=run, last=last)
    )
    assert late == again
    assert late["words"] == list(range(100)) == begun["words"] + rest["words"]
    assert late["ending"] == rest["ending"] == "end"
    assert calls() == 1
    after = await ask(other.url, run=run, last=late["ids"][-1])
    assert (after["words"], after["ending"]) == ([], "end")


async def test_it_resumes_by_itself_after_every_cut(start, ask, calls):
    process = await start(APP)
    async with cutting_proxy(process.url) as (proxy, url):
        proxy.answer_bytes = 6_000
        whole = await ask(url, graph="agent", prompt="300 0.002")
    assert proxy.connections > 2
    assert whole["words"] == list(range(300))
    assert whole["ending"] == "end"
    *ids, _ = whole["ids"]  # the client repeats the last one with the end, which has none
    assert len(set(ids)) == len(ids)
    assert calls() == 1


async def test_the_run_of_a_killed_process_goes_on_for_a_client_of_another(start, ask, calls):
    process, other = await start(APP), await start(APP)
    begun = await ask(process.url, graph="kept", prompt="100 0.03", until=5)
    reading = asyncio.ensure_future(ask(other.url, run=begun["runId"], last=begun["ids"][-1]))
    await asyncio.sleep(0)
    await process.kill()
    rest = await reading
    assert rest["ending"] == "end"
    assert (begun["words"] + rest["words"])[-100:] == list(range(100))
    assert calls() == 1
