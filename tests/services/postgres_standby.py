"""A PostgreSQL primary with a standby that can be promoted, synchronous or not."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from streamstores.conformance.faults import Proxy
from tests.services import Unavailable
from tests.services.postgres import OwnServer, own_server

START_TIMEOUT = 60.0
STANDBY = "standby"


class Pair:
    """Two servers, of which the second follows the first until it is promoted."""

    def __init__(self, primary: OwnServer, standby: OwnServer, link: Proxy) -> None:
        self.primary = primary
        self.standby = standby
        self.link = link
        """The network between the two. Muted, it makes the standby lag."""

    @property
    def url(self) -> str:
        """A URL with both; the store looks for the one that takes mutations."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in (self.primary, self.standby))
        return f"postgresql://postgres:secret@{hosts}/postgres?target_session_attrs=primary"

    def wait_for_standby(self) -> None:
        """From now on every commit of the primary waits for the standby."""
        execute(self.primary, f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
        execute(self.primary, "SELECT pg_reload_conf()")
        self._wait_until("SELECT sync_state FROM pg_stat_replication", "sync")

    def catch_up(self) -> None:
        """Wait until the standby has all that was committed."""
        self._wait_until(
            "SELECT replay_lsn = pg_current_wal_insert_lsn() FROM pg_stat_replication", True
        )

    def promote(self) -> None:
        """Make the standby a primary, and wait until it is one."""
        assert execute(self.standby, "SELECT pg_promote(true, 60)"), "not promoted in a minute"

    def _wait_until(self, query: str, value: object) -> None:
        _wait_until(lambda: execute(self.primary, query) == value, query)


@contextmanager
def own_pair(version: int = 18, *, is_synchronous: bool = True) -> Iterator[Pair]:
    """A fresh primary and its standby, which has caught up. Raises `Unavailable`."""
    with (
        own_server(version) as primary,
        Proxy(primary.port) as link,
        tempfile.TemporaryDirectory(prefix="streamstores-pg-", dir="/tmp") as folder,
    ):
        standby = OwnServer(primary.binaries, Path(folder))
        standby.give_folder_away()
        source = f"host=127.0.0.1 port={link.port} user=postgres password=secret"
        standby.run_program(
            *["pg_basebackup", "-D", standby.folder / "data", "-R", "--checkpoint=fast"],
            *["-d", f"{source} application_name={STANDBY}"],
        )
        standby.start()
        pair = Pair(primary, standby, link)
        try:
            pair.wait_for_standby() if is_synchronous else pair.catch_up()
            yield pair
        finally:
            standby.stop()


def execute(server: OwnServer, sql: str) -> Any:
    """The first value of a statement."""
    return asyncio.run(_execute(server.url, sql))


async def _execute(url: str, sql: str) -> Any:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        return await connection.fetchval(sql, timeout=START_TIMEOUT)
    finally:
        await connection.close()


def _wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {START_TIMEOUT:.0f} s for {what}")
        time.sleep(0.02)
