"""A place on each store that processes can share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.services import postgres, redis, s3

SHARED = ["sqlite", "postgres", "redis", "s3"]

LONG_FILES = (
    "test_chats.py",
    "test_deadly_models.py",
    "test_halting.py",
    "test_resumable_streams.py",
)
"""Their tests take seconds and more; on stores other than SQLite they are left to the long
run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        store = getattr(item, "callspec", None) and item.callspec.params.get("store_url")
        if item.path.name in LONG_FILES and store not in (None, "sqlite"):
            item.add_marker(pytest.mark.long)


@pytest.fixture(params=SHARED)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield f"sqlite:///{tmp_path}/chats.db"
        elif request.param == "postgres":
            yield stack.enter_context(postgres.fresh_schema(postgres.shared()))
        elif request.param == "redis":
            yield redis.with_own_prefix(redis.shared())
        else:
            yield s3.shared().url()
