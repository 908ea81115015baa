"""What a real server does to a writer: its throughput, and kills in the middle of its writes.

    python -m tests.s3.ceph_trial --seconds 10 --kills 5

needs the packages that `tests.services.ceph` names. Each kill ends the gateway by SIGKILL while
a writer and a caller of plain appends are at work, and starts it again after a second. Exits
with 1 if the writer's stream is not exactly what was written, or if an append that was
acknowledged is lost or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import suppress

from streamstores import OutcomeUnknown, S3StreamStore, StoreUnavailable, StreamWriter
from streamstores.store import StreamStore
from tests.services.ceph import Cluster, own_cluster

RECORD = bytes(1024)
DOWN_SECONDS = 1.0
RETRY_SECONDS = 300.0


async def throughput(store: StreamStore, seconds: float) -> float:
    """Acknowledged megabytes a second of one writer, in records of 1 KiB."""
    await store.create("fast")
    begun = time.monotonic()
    count = 0
    async with StreamWriter(store, "fast") as writer:
        while time.monotonic() < begun + seconds:
            await writer.write(RECORD)
            count += 1
    return count * len(RECORD) / 1e6 / (time.monotonic() - begun)


async def write_numbers(store: StreamStore, is_over: asyncio.Event) -> bytes:
    """What a writer was given until the end."""
    await store.create("written")
    given: list[bytes] = []
    async with StreamWriter(store, "written", retry_for=RETRY_SECONDS) as writer:
        while not is_over.is_set():
            given.append(b"<%d>" % len(given))
            await writer.write(given[-1])
            await asyncio.sleep(0.002)
    return b"".join(given)


async def append_numbers(store: StreamStore, is_over: asyncio.Event) -> set[bytes]:
    """The appends that were acknowledged; none is repeated."""
    await store.create("appended")
    acknowledged: set[bytes] = set()
    number = 0
    while not is_over.is_set():
        number += 1
        with suppress(OutcomeUnknown, StoreUnavailable):
            await store.append("appended", b"<%d>" % number)
            acknowledged.add(b"<%d>" % number)
        await asyncio.sleep(0.01)
    return acknowledged


async def kill_again_and_again(cluster: Cluster, kills: int) -> None:
    for _ in range(kills):
        await asyncio.sleep(2.0)
        await asyncio.to_thread(cluster.kill_gateway)
        await asyncio.sleep(DOWN_SECONDS)
        await asyncio.to_thread(cluster.start_gateway)
    await asyncio.sleep(2.0)


async def content(store: StreamStore, stream_id: str) -> list[bytes]:
    """All records of a stream."""
    records: list[bytes] = []
    offset = 0
    while True:
        page = await store.read(stream_id, offset)
        records += [each.data for each in page.records]
        offset = page.next_offset
        if offset == page.info.tail:
            return records


async def run(options: argparse.Namespace) -> int:
    with own_cluster() as (cluster, server):
        async with S3StreamStore(server.url()) as store:
            print(f"{await throughput(store, options.seconds):.1f} MB/s", flush=True)
            is_over = asyncio.Event()
            working = asyncio.gather(
                write_numbers(store, is_over), append_numbers(store, is_over)
            )
            await kill_again_and_again(cluster, options.kills)
            is_over.set()
            given, acknowledged = await working
            written = b"".join(await content(store, "written"))
            appended = await content(store, "appended")
    lost, doubled = acknowledged - {*appended}, len(appended) - len({*appended})
    print(
        f"{options.kills} kills: {len(given)} bytes written, {len(written)} kept, "
        f"{'equal' if given == written else 'NOT EQUAL'}; {len(acknowledged)} appends "
        f"acknowledged, {len(lost)} lost, {doubled} doubled"
    )
    return 0 if given == written and not lost and not doubled else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.s3.ceph_trial")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=5)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
