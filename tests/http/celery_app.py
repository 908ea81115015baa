"""A Celery application whose tasks produce streams, for a worker that forks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from celery import Celery

from streamstores.blocking import BlockingStreams, open_store

app = Celery("streams", broker=os.environ["BROKER"])
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)

# Both are made before the worker forks, and used after it.
store = open_store(os.environ["STORE"])
streams = BlockingStreams(os.environ["STORE"], heartbeat=1.0)


@app.task
def write(stream_id: str, count: int) -> None:
    """A task that writes records itself."""
    store.create(stream_id)
    with store.writer(stream_id) as writer:
        for number in range(count):
            writer.write(b"%d " % number)


@app.task
def produce(stream_id: str, count: int) -> None:
    """A task whose generator becomes the stream."""
    streams.produce(stream_id, lambda: numbers(count))


def numbers(count: int) -> Iterator[str]:
    for number in range(count):
        yield f"data: {number}\n\n"
        time.sleep(0.005)
