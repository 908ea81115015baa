"""A place on each store that processes can share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.services import postgres, redis, s3

SHARED = ["sqlite", "postgres", "redis", "s3"]


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
