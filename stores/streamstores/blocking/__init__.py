"""Streams for synchronous code: Celery and RQ tasks, threads, Flask and WSGI Django.

    from streamstores import blocking

    store = blocking.open_store("redis://localhost")

    def task(stream_id, prompt):                     # in a worker
        store.create(stream_id, ttl=3600)
        with store.writer(stream_id) as writer:
            for token in tokens(prompt):
                writer.write(token.encode())

    for record in store.follow(stream_id, offset):   # in a view
        ...

Everything runs in one event loop, in a thread of its own, with the same stores, writers and
followers that asynchronous code uses. Any thread may call; calls block only the caller.

**Fork.** A store or streams object made from a URL may be made before a fork, as a module does
in a pre-forking server. Each process opens connections of its own when it first calls. An
object that was given an open store refuses calls in a forked process with `InvalidRequest`.

**Interruption.** Any exception that interrupts a call, such as `KeyboardInterrupt` or the soft
time limit of Celery, cancels it: a cancelled append happened wholly or not at all.
"""

from __future__ import annotations

from streamstores.blocking.store import BlockingStore, open_store
from streamstores.blocking.streams import BlockingStreams
from streamstores.blocking.writer import BlockingWriter

__all__ = ["BlockingStore", "BlockingStreams", "BlockingWriter", "open_store"]
