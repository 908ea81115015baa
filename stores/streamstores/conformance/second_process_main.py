"""The program of the second process, which `SecondProcess` starts with a target.

It answers the calls of its parent until its stdin ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, BinaryIO

from streamstores.conformance.harness import target_of
from streamstores.conformance.second_process import from_line, plain, to_line
from streamstores.errors import Conflict, StreamStoreError
from streamstores.follow import follow
from streamstores.store import Record, StreamStore


async def bump(store: StreamStore, stream_id: str, chunks: list[bytes]) -> int:
    """Append each chunk at the current tail, retrying after a `Conflict`; the retries made."""
    conflicts = 0
    for chunk in chunks:
        while True:
            tail = (await store.info(stream_id)).tail
            try:
                await store.append(stream_id, chunk, at=tail)
                break
            except Conflict:
                conflicts += 1
    return conflicts


async def _follow(store: StreamStore, stream_id: str, offset: int = 0) -> list[Record]:
    return [record async for record in follow(store, stream_id, offset)]


async def _list(store: StreamStore, prefix: str) -> list[Any]:
    return [plain(info) async for info in store.list(prefix)]


async def _ready(store: StreamStore) -> None:
    """Does nothing: its answer tells the parent that the store is open."""


_OWN = {"bump": bump, "follow": _follow, "list": _list, "ready": _ready}


async def _call(store: StreamStore, name: str, args: Any, kwargs: Any) -> Any:
    own = _OWN.get(name)
    if own is not None:
        return await own(store, *args, **kwargs)  # type: ignore[operator]  # by name
    return plain(await getattr(store, name)(*args, **kwargs))


async def _answer(store: StreamStore, line: bytes, out: BinaryIO) -> None:
    number, name, args, kwargs = from_line(line)
    message: tuple[object, ...]
    try:
        message = (number, None, await _call(store, name, args, kwargs))
    except Exception as exc:
        attributes = {name: plain(value) for name, value in vars(exc).items()}
        if not isinstance(exc, StreamStoreError):
            attributes = {}  # of a class that the parent does not have
        message = (number, type(exc).__name__, (str(exc), attributes))
    out.write(to_line(message))
    out.flush()


async def _serve(spec: str, out: BinaryIO) -> None:
    """Answer calls until stdin ends; what is still running then is cancelled."""
    answers: set[asyncio.Task[None]] = set()
    async with target_of(spec).make_store() as store:
        # In a thread, because no event loop can read stdin on every system.
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            # Beside the others, because a call may be a wait that a later call ends.
            task = asyncio.create_task(_answer(store, line, out))
            answers.add(task)
            task.add_done_callback(answers.discard)
        for task in answers:
            task.cancel()
        await asyncio.gather(*answers, return_exceptions=True)


def main() -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the factory prints must not end up among the answers
    asyncio.run(_serve(sys.argv[1], out))


if __name__ == "__main__":
    main()
