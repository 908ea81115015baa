"""`Runs`: the runs of one process, started, stopped, continued, taken and handed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from streamstores.errors import (
    Conflict,
    InvalidRequest,
    OutcomeUnknown,
    StoreUnavailable,
    StreamClosed,
)
from streamstores.limits import Limits, check_seconds
from streamstores.observation import Note, observed_run, observed_start, observed_takeover
from streamstores.runs.follower import RunFollower
from streamstores.runs.ownership import OWNER, OWNER_BYTES, Owners, takeovers_of
from streamstores.runs.run import Phase, Run, RunSettings
from streamstores.runs.run_log import log_run
from streamstores.runs.source import Revive, Source, as_exception, close_unread
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["Runs", "TooManyRuns"]


class TooManyRuns(Exception):
    """This process holds `max_runs` sources already; nothing happened. Retry later."""


class Runs:
    """The runs of one process on one store.

    `revive(info)` gives a source that goes on where the stream `info` ends, or None if
    nothing can. It must do no I/O before the source's first step; there is no other way to a
    second generation. If it raises, the stream ends in `error`.

    The stream of a silent source shows a sign of life every `heartbeat` seconds, and a producer
    that shows none for three times as long is taken for dead: all processes that share streams
    must use the same value. A paused source is held for `pause_for` seconds. At most `max_runs`
    sources, running and paused, are held at a time. `describe_error(exc)` returns the public
    text for what a source raised.

    A stream whose producers died `max_takeovers` times and then once more ends in `error`: its
    source may be what ends the processes. Only deaths count, neither restarts that hand their
    streams over nor continuations that a user asked for.
    """

    def __init__(
        self,
        store: StreamStore,
        *,
        revive: Revive | None = None,
        heartbeat: float = 5.0,
        pause_for: float = 60.0,
        max_runs: int = 1000,
        max_takeovers: int = 5,
        describe_error: Callable[[Exception], str] | None = None,
    ) -> None:
        check_seconds(heartbeat, "heartbeat")
        check_seconds(pause_for, "pause_for")
        if not heartbeat or max_runs < 1:
            raise InvalidRequest("heartbeat is above 0 and max_runs at least 1")
        if max_takeovers < 0:
            raise InvalidRequest(f"max_takeovers is at least 0, not {max_takeovers!r}")
        self.store = store
        self._owners = Owners(store)
        self._settings = RunSettings(
            store,
            self._owners,
            revive or (lambda info: None),
            heartbeat,
            pause_for,
            describe_error or (lambda exc: "The source failed."),
        )
        self._max_runs = max_runs
        self._max_takeovers = max_takeovers
        self._runs: dict[str, Run] = {}
        self._held: set[Run] = set()  # also runs whose stream was deleted and created anew
        self._beginning = 0  # runs whose streams are being created or claimed
        self._work: set[asyncio.Future[StreamInfo]] = set()  # starts and claims under way
        self._closed = False

    def __repr__(self) -> str:
        return f"<Runs on {self.store!r}: {len(self._held)} of {self._max_runs}>"

    async def start(
        self,
        stream_id: str,
        source: Source,
        *,
        ttl: float | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> StreamInfo:
        """Create the stream and drive `source` into it, until it ends.

        Of racing starts with one id exactly one wins; the others raise `StreamExists`, and
        their sources are closed unread. A start goes on if its caller is cancelled. Raises
        `TooManyRuns`, and what the store's `create` raises.
        """
        return await self._to_the_end(self._start(stream_id, source, ttl, attributes or {}))

    async def stop(self, stream_id: str) -> StreamInfo:
        """Save what there is and halt the source, in whichever process it runs.

        What a source of this process has yielded is stored first. Idempotent; a stream in a
        final state stays as it is. Raises `StreamNotFound` and the store's errors.
        """
        run = self._runs.get(stream_id)
        if run is not None:
            info = await run.save()
            if info is not None and info.state is not State.STREAMING:
                return info
        try:
            return await self.store.mark_done(stream_id, State.STOPPED)
        except StreamClosed as exc:
            return exc.info

    async def resume(self, stream_id: str) -> StreamInfo:
        """Continue a stopped stream.

        It goes on with the paused source of its owner, in whichever process that is held;
        failing that, with a revived source; failing that, it stays stopped. Of racing calls
        one continues the stream and the others find it streaming. A stream that is not
        stopped is left as it is. Waits up to two seconds for an owner in another process.
        Raises `StreamNotFound`, `TooManyRuns` and the store's errors.
        """
        info = await self.store.info(stream_id)
        owner = info.attributes.get(OWNER)
        if info.state is not State.STOPPED or owner is None:
            return info
        if self._may_be_held(stream_id, owner):
            info, goes_on = await self._owners.reopen(info)
            if goes_on:
                return info
        return await self._to_the_end(self._take_over(info))

    async def follow(self, info: StreamInfo, offset: int) -> RunFollower:
        """A follower from `offset` of the stream that `info` describes.

        It takes the stream over from a producer that dies, and at once if the stream was
        handed over.
        """
        if info.state is State.STREAMING and info.attributes.get(OWNER) == "":
            await self.rescue(info)
        return RunFollower(
            self.store, info, offset, heartbeat=self._settings.heartbeat, rescue=self.rescue
        )

    async def rescue(self, info: StreamInfo) -> None:
        """Take over the stream whose producer was lost at `info`.

        A stream that nothing can continue is stopped, and a stream that was taken over
        `max_takeovers` times ends in `error`. Does nothing if another process was first.
        """
        run = self._runs.get(info.id)
        if run is not None and run.owner == info.attributes.get(OWNER):
            return  # the producer lives: it is the store that is slow
        has_died = info.attributes.get(OWNER) != ""  # else it has handed the stream over
        # A later look may find room, or an outcome, or that another process has the stream.
        with suppress(TooManyRuns, OutcomeUnknown):
            await self._to_the_end(self._take_over(info, has_died=has_died))

    def is_running(self, stream_id: str) -> bool:
        """Whether this process holds the stream's source."""
        return stream_id in self._runs

    async def aclose(self) -> None:
        """Hand over all streams: they are flushed, and any process may claim them at once.

        Streams that nothing can continue are stopped, and paused sources are closed.
        Idempotent.
        """
        self._closed = True
        while self._work:  # first, because a start or a claim may add a run
            await asyncio.wait(set(self._work))
        await asyncio.gather(*(run.hand_over() for run in self._held))

    async def _start(
        self, stream_id: str, source: Source, ttl: float | None, attributes: Mapping[str, str]
    ) -> StreamInfo:
        with observed_start(stream_id) as more:
            attributes = _with_more(attributes, more, self.store.limits)
            try:
                with self._room():
                    info = await self._owners.create(stream_id, ttl, attributes)
                    self._begin(info, source)
            except BaseException:
                await close_unread(source, stream_id)
                raise
        return info

    async def _take_over(self, info: StreamInfo, *, has_died: bool = False) -> StreamInfo:
        """`_claim_or_end`, observed."""
        if info.state is State.STOPPED:
            reason = "stopped"
        else:
            reason = "died" if has_died else "handed_over"
        with observed_takeover(info, reason) as note:
            now, outcome = await self._claim_or_end(info, has_died=has_died)
            note(outcome)
        log_run("takeover", info.id, because=f"{reason}, {outcome}")
        return now

    async def _claim_or_end(
        self, info: StreamInfo, *, has_died: bool
    ) -> tuple[StreamInfo, str]:
        """Claim the stream for a revived source; if there is none, stop it. Returns the stream
        and the outcome, as `Observer.takeover` names it.

        `has_died` says that its producer has, which counts, and may end it in `error`.
        """
        try:
            # The source comes before the claim: a stream that was claimed for nothing would be
            # streaming without a producer until its followers lose patience.
            source = self._settings.revive(info)
        except BaseException as exc:  # as from a source: it must not end the process
            error = self._settings.describe(info.id, as_exception(exc))
            return await self._end(info, State.ERROR, error)
        if source is None:
            return await self._end(info, State.STOPPED)
        takeovers = takeovers_of(info) + 1 if has_died else None
        claimed = None
        try:
            if takeovers is not None and takeovers > self._max_takeovers:
                error = self._too_many_deaths(info)
                return await self._end(info, State.ERROR, error)
            with self._room():
                claimed = await self._owners.claim(info, takeovers=takeovers)
                if claimed is not None:
                    self._begin(claimed, source)
        finally:
            if claimed is None:
                await close_unread(source, info.id)
        if claimed is None:
            return await self.store.info(info.id), "outrun"
        return claimed, "continued"

    def _too_many_deaths(self, info: StreamInfo) -> str:
        deaths = self._max_takeovers + 1
        exc = RuntimeError(f"its producers died {deaths} times, perhaps because of it")
        return self._settings.describe(info.id, exc)

    async def _end(
        self, info: StreamInfo, state: State, error: str | None = None
    ) -> tuple[StreamInfo, str]:
        """Stop or end the stream if it is still as `info` describes it."""
        if info.state is state:
            return info, str(state)
        end = self.store.mark_done(info.id, state, error=error, version=info.version)
        try:
            return await end, str(state)
        except (Conflict, StreamClosed) as exc:
            return exc.info, "outrun"

    def _begin(self, info: StreamInfo, source: Source) -> None:
        """Drive `source` into a stream that this process has just created or claimed."""
        # The tasks of the run are made here, so they see the context that the observer sets.
        with observed_run(info) as note:
            run = Run(self._settings, info, source, partial(self._forget, note))
        self._runs[info.id] = run
        self._held.add(run)

    def _forget(self, note: Note, run: Run) -> None:
        note(run.outcome)
        self._held.discard(run)
        # The id may belong to a namesake's run already, if the stream was deleted and created
        # anew.
        if self._runs.get(run.stream_id) is run:
            del self._runs[run.stream_id]

    @contextmanager
    def _room(self) -> Generator[None, None, None]:
        """Keep a place for a run while its stream is created or claimed, until it has begun."""
        if self._closed:
            raise StoreUnavailable("this process is closing")
        if len(self._held) + self._beginning >= self._max_runs:
            raise TooManyRuns(f"this process produces {self._max_runs} streams already")
        self._beginning += 1
        try:
            yield
        finally:
            self._beginning -= 1

    def _may_be_held(self, stream_id: str, owner: str) -> bool:
        """Whether the owner's paused source may still be held, here or elsewhere."""
        # Of an owner of this process it is known whether it is gone, without two seconds of
        # waiting for its answer.
        if self._owners.are_here(owner):
            run = self._runs.get(stream_id)
            return run is not None and run.owner == owner and run.phase is not Phase.ENDING
        return bool(owner)

    async def _to_the_end(self, work: Coroutine[Any, Any, StreamInfo]) -> StreamInfo:
        """The work's result; a caller that is cancelled does not cancel the work, which may
        have claimed a stream that then needs its producer."""
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work_done)
        return await asyncio.shield(task)

    def _work_done(self, task: asyncio.Future[StreamInfo]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            task.exception()  # read, or asyncio reports it if the caller was cancelled


def _with_more(
    attributes: Mapping[str, str], more: Mapping[str, str], limits: Limits
) -> Mapping[str, str]:
    """The attributes and those of the observer, which are left out if there is no room."""
    if not more:
        return attributes
    together = {**more, **attributes}  # an application's own attribute is kept
    texts = [text for item in together.items() for text in item]
    size = sum(len(str(text).encode(errors="replace")) for text in texts)
    return together if size + OWNER_BYTES <= limits.attributes_bytes else attributes
