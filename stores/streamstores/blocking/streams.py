"""Resumable streams for synchronous code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from streamstores.blocking.background_loop import Resident, call, iterate
from streamstores.errors import StreamStoreError
from streamstores.store import Record, StreamInfo, StreamStore
from streamstores.store_urls import open_store

if TYPE_CHECKING:
    from streamstores.http.resumable import AnySource, ResumableStreams

__all__ = ["BlockingStreams"]


class BlockingStreams:
    """`streamstores.http.ResumableStreams` without `async`, for one process. Needs the extra
    `http`.

        streams = BlockingStreams("redis://localhost")

        @celery.task
        def answer(stream_id, prompt):
            streams.produce(stream_id, lambda: tokens(prompt))

        @flask_app.get("/answers/<stream_id>")
        def resume(stream_id):
            return streams.replay(stream_id, request, wait_for_create=30)

    `store` is a URL, or a store that was made for this object alone. The options are those of
    `ResumableStreams`; `ttl` and `heartbeat` must be the same in all processes. A plain
    iterator runs in a thread of its own; a Stop closes it as soon as its step has returned.
    """

    def __init__(self, store: str | StreamStore, **options: Any) -> None:
        self._is_url = isinstance(store, str)

        async def make() -> ResumableStreams:
            from streamstores.http.resumable import ResumableStreams  # noqa: PLC0415 - extra

            opened = open_store(store) if isinstance(store, str) else store
            # The loop runs in another thread, and Python sets signal handlers only in the main
            # thread.
            options.setdefault("watch_signals", False)
            return ResumableStreams(opened, **options)

        self._resident = Resident(make, survives_fork=self._is_url)

    def start(self, stream_id: str, source: AnySource, **options: Any) -> StreamInfo:
        """Start the stream, or find it started, and return. The source runs on in the
        background. Options: `media_type`, `event_ids`, `attributes`."""
        return call(self._resident.get().start(stream_id, source, **options))

    def produce(self, stream_id: str, source: AnySource, **options: Any) -> StreamInfo:
        """Start the stream, or find it started, and wait for its end: the body of a task.

        Returns how it ended: `done`, `stopped` or `error`. A task that is run again while the
        first run lives attaches to it and begins no second generation. An exception that
        interrupts the wait, such as a task's time limit, stops the stream if it runs here.
        """
        streams = self._resident.get()
        try:
            info = call(streams.start(stream_id, source, **options))
            return call(_ended(streams, info))
        except BaseException:
            if streams.is_running(stream_id):
                with suppress(StreamStoreError):  # the interruption says more
                    call(streams.stop(stream_id))
            raise

    def replay(
        self,
        stream_id: str,
        request: Any = None,
        *,
        offset: int | str | None = None,
        **options: Any,
    ) -> tuple[Iterator[bytes], int, dict[str, str]]:
        """The answer of `ResumableStreams.replay`: its body, status and headers.

        A Flask view returns them as they are, and a Django view as
        `StreamingHttpResponse(body, status=status, headers=headers)`. Options:
        `missing_status`, `only_live`, `repeat_ending`, `status_code`, `headers` and
        `wait_for_create`.
        """
        from streamstores.http._asgi.errors import HttpError  # noqa: PLC0415
        from streamstores.http.resumable.response import StreamResponse, refused  # noqa: PLC0415
        from streamstores.http.resumable.resume_point import resume_point  # noqa: PLC0415

        streams = self._resident.get()
        try:
            # Here, because a request may be known to its own thread only.
            place = resume_point(request) if offset is None else offset
        except HttpError as exc:
            response = refused(exc)
        else:
            response = call(streams.replay(stream_id, offset=place, **options))
        if isinstance(response, StreamResponse):
            body = self.body(stream_id, offset=response.offset)
        else:
            body = iter([bytes(response.body)])
        return body, response.status_code, dict(response.headers)

    def body(
        self,
        stream_id: str,
        request: Any = None,
        *,
        offset: int | str | None = None,
        wait_for_create: float = 0.0,
    ) -> Iterator[bytes]:
        """The bytes to send, from where the client left off, to the end of the stream.

        An event stream has a comment after each `ping_interval` seconds of silence. The server
        fails to send it if the client has left, and gives the waiting thread back.

        The first step raises `StreamNotFound`, `OffsetOutOfRange` and `InvalidRequest`; use
        `info` before you begin a response. `wait_for_create` is that of `info`.
        """
        streams = self._resident.get()
        if offset is None:  # here, because a request may be known to its own thread only
            offset = streams.resume_point(request)
        return iterate(streams.body(stream_id, offset=offset, wait_for_create=wait_for_create))

    def follow(
        self, stream_id: str, offset: int = 0, *, wait_for_create: float = 0.0
    ) -> Iterator[Record]:
        """The records from `offset`, then live, to the end. `wait_for_create` is that of
        `info`."""
        streams = self._resident.get()
        return iterate(streams.follow(stream_id, offset, wait_for_create=wait_for_create))

    def stop(self, stream_id: str) -> StreamInfo:
        """Save what there is and halt the source, in whichever process it runs."""
        return call(self._resident.get().stop(stream_id))

    def resume(self, stream_id: str) -> StreamInfo:
        """Continue a stopped stream."""
        return call(self._resident.get().resume(stream_id))

    def info(self, stream_id: str, *, wait_for_create: float = 0.0) -> StreamInfo:
        """The stream now, or as soon as a task that was queued has started it, within
        `wait_for_create` seconds. Raises `StreamNotFound`."""
        streams = self._resident.get()
        return call(streams.info(stream_id, wait_for_create=wait_for_create))

    def close(self) -> None:
        """Hand over the streams that run here. Closes the store if it was opened by its URL.
        Idempotent."""
        streams = self._resident.take()
        if streams is not None:
            call(_closed(streams, with_store=self._is_url))

    def __enter__(self) -> BlockingStreams:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


async def _ended(streams: ResumableStreams, info: StreamInfo) -> StreamInfo:
    """How the stream ended; its records are passed over."""
    async for _ in streams.follow(info.id, info.tail):
        pass
    return await streams.info(info.id)


async def _closed(streams: ResumableStreams, *, with_store: bool) -> None:
    await streams.aclose()
    if with_store:
        await streams.store.aclose()
