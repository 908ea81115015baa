"""The protocol's npm packages against this handler: conformance suite and JavaScript client.

Both run in Node. Where `STREAMSTORES_TEST_DURABLE_SUITE` names a folder in which the suite is
installed, that is taken.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from streamstores import MemoryStreamStore, open_store
from streamstores.http import create_durable_streams_app
from tests.durable.client import at
from tests.http.serving import serving
from tests.services.npm import installed

VERSION = "0.3.6"
TESTS = 332
"""Without those of the subscriptions, which the suite itself leaves out unless asked."""
EXPECTED_FAILURES: dict[str, str] = {}
"""The full name of a test that is wrong or cannot pass, and why."""

LONG_POLL_SECONDS = 2.0  # some of the tests wait for its end, and none longer than 5 seconds

TEST_FILE = Path(__file__).with_name("suite.test.mjs")


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the suite in `node_modules`."""
    package = f"@durable-streams/server-conformance-tests@{VERSION}"
    return installed(tmp_path_factory, "durable-suite", package, beside=(TEST_FILE,))


async def outcomes_of(suite: Path, url: str, report: Path) -> dict[str, list[dict[str, Any]]]:
    """The suite's tests of the server at `url`, by their outcome.

    What fails is tried once more: some of its tests leave half a second to a busy machine.
    """
    node = await asyncio.create_subprocess_exec(
        *("node", suite / "node_modules/vitest/vitest.mjs", "run", "suite.test.mjs"),
        *("--retry=1", "--testTimeout=60000", "--reporter=json", f"--outputFile={report}"),
        "--no-cache",  # in the folder that other runs share
        cwd=suite,
        env={**os.environ, "CONFORMANCE_TEST_URL": url, "CI": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(node.communicate(), 240)
    finally:
        if node.returncode is None:
            node.kill()
            await node.wait()
    assert report.exists(), said.decode()
    outcomes: dict[str, list[dict[str, Any]]] = {}
    for file in json.loads(report.read_text())["testResults"]:
        for test in file["assertionResults"]:
            outcomes.setdefault(test["status"], []).append(test)
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize(
    "store_url",
    [
        pytest.param("memory", marks=pytest.mark.release),
        pytest.param("sqlite", marks=pytest.mark.long),
        pytest.param("postgres", marks=pytest.mark.release),
        pytest.param("redis", marks=pytest.mark.release),
        pytest.param("s3", marks=pytest.mark.long),
    ],
    indirect=True,
)
async def test_a_server_on_any_store_passes_the_public_suite(
    suite: Path, store_url: str, tmp_path: Path
) -> None:
    async with open_store(store_url) as store:
        app = create_durable_streams_app(store, long_poll_seconds=LONG_POLL_SECONDS)
        async with app, serving(app, lifespan="off") as url:
            outcomes = await outcomes_of(suite, url, tmp_path / "report.json")
    failed = {test["fullName"]: test["failureMessages"] for test in outcomes.get("failed", [])}
    unexpected = {name: failed[name][:1] for name in failed.keys() - EXPECTED_FAILURES.keys()}
    assert not unexpected
    assert failed.keys() == EXPECTED_FAILURES.keys()
    assert len(outcomes["passed"]) + len(failed) == TESTS


async def test_the_javascript_client_works(suite: Path) -> None:
    async with MemoryStreamStore() as store:
        app = create_durable_streams_app(store, long_poll_seconds=LONG_POLL_SECONDS)
        async with app, serving(app, lifespan="off") as url:
            node = await asyncio.create_subprocess_exec(
                *("node", Path(__file__).with_name("client.mjs"), suite, url),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                found, complaints = await asyncio.wait_for(node.communicate(), 60)
            finally:
                if node.returncode is None:
                    node.kill()
                    await node.wait()
    assert node.returncode == 0, complaints.decode()
    assert json.loads(found) == {
        "errors": [],
        "live": [[*range(300)]] * 2,
        "whole": "one two three \U0001f600.",
        "offset": at(18),
        "exists": False,
    }
