"""Stores and runs of several processes: two `Runs` with a store each are two processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from streamstores import StreamStore
from streamstores.runs import Runs
from tests.unit.scripted_runs import HEARTBEAT, OneFile


@pytest.fixture(params=["memory", "sqlite"])
async def place(request: Any, tmp_path: Path) -> AsyncIterator[OneFile]:
    async with AsyncExitStack() as stack:
        yield OneFile(tmp_path / "runs.db" if request.param == "sqlite" else None, stack)


@pytest.fixture
async def store(place: OneFile) -> StreamStore:
    return await place.open()


@pytest.fixture
async def runs_on(place: OneFile) -> AsyncIterator[Callable[..., Awaitable[Runs]]]:
    """Makes the `Runs` of another process, with a store of its own."""
    made: list[Runs] = []

    async def make(on: StreamStore | None = None, **options: Any) -> Runs:
        options = {"heartbeat": HEARTBEAT, **options}
        made.append(Runs(on or await place.open(), **options))
        return made[-1]

    yield make
    for runs in made:
        await runs.aclose()
