"""A process that reads the stream "s" to its end, and whose model is deadly.

    python -m tests.faults.deadly_reader STORE_URL kill|exit

It takes the stream over when its producer is dead, as a worker with a reader does. The model
yields one record and then ends its process by SIGKILL, or raises `SystemExit`. A process that
survives prints the state in which the stream ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

from streamstores import StreamInfo, open_store
from streamstores.runs import Runs

MAX_TAKEOVERS = 2


def revive(info: StreamInfo) -> AsyncIterator[bytes]:
    return deadly()


async def deadly() -> AsyncIterator[bytes]:
    yield b"x"
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(1)


async def main() -> None:
    async with open_store(sys.argv[1]) as store:
        runs = Runs(store, revive=revive, heartbeat=0.2, max_takeovers=MAX_TAKEOVERS)
        follower = await runs.follow(await store.info("s"), 0)
        while await follower.batch():
            pass
        print(follower.info.state.value)
        await runs.aclose()


if __name__ == "__main__":
    asyncio.run(main())
