"""A store and a process that was forked after it was opened."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from tests.services.redis import shared, with_own_prefix

_PROGRAM = """
import asyncio, os, sys
from streamstores import InvalidRequest, RedisStreamStore

async def main(url):
    store = RedisStreamStore(url)
    await store.create("a", ttl=60)
    child = os.fork()
    if child == 0:
        try:
            await store.info("a")
        except InvalidRequest as exc:
            os.write(1, str(exc).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert (await store.append("a", b"x")).tail == 1, "the parent goes on"
    await store.aclose()

asyncio.run(main(sys.argv[1]))
"""


async def test_a_store_that_was_opened_before_a_fork_is_refused_in_the_child():
    url = with_own_prefix(shared("valkey"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert b"opened before a fork" in output
