"""Stores that open in their own time, and are quick to give up after that."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator

from streamstores import S3StreamStore
from tests.services import PATIENCE
from tests.services.scripted_s3 import ScriptedS3

__all__ = ["opened_in_time", "set_timeout"]


@contextlib.asynccontextmanager
async def opened_in_time(
    server: ScriptedS3, *, timeout: float, **options: object
) -> AsyncIterator[S3StreamStore]:
    """An open store with this timeout, which held for nothing of its opening."""
    async with S3StreamStore(server.store_url("p", timeout=PATIENCE, **options)) as store:
        set_timeout(store, timeout)
        yield store


def set_timeout(store: S3StreamStore, seconds: float) -> None:
    """Give a store another timeout."""
    options = dataclasses.replace(store._options, timeout=seconds)
    store._options = store._storage.bucket._options = options
    object.__setattr__(store._storage, "timeout", seconds)  # how long a change is tried again
