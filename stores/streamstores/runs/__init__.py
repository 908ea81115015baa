"""Runs: sources of bytes that become streams, and end properly however they end.

A *run* is a task of this process that drives one source into one stream, as its producer.
`Runs` starts them, stops and continues them from any process, takes over those whose
process died, and hands its own over when it closes. It knows only the store's contract.

Who may produce is written in the stream's attribute `owner`, a name that is new for every
start, continuation and takeover.

- An owner's appends carry the version. So whoever claims the stream, by one compare-and-set
  that changes `owner`, fences the old one off, and of N claimants one wins.
- A stopped stream keeps its owner, who holds the paused source for `pause_for` seconds. To
  reopen it and leave `owner` as it is asks that owner to go on, in whichever process it is.
  One that does not answer is gone.
- An empty owner has handed its stream over: anybody may claim it at once. A stream without
  the attribute has a producer that is not ours: it is followed and never claimed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from streamstores.errors import (
    Conflict,
    InvalidRequest,
    OutcomeUnknown,
    ProducerLost,
    StoreUnavailable,
    StreamClosed,
    StreamExists,
    StreamNotFound,
)
from streamstores.follow import Follower, follow
from streamstores.limits import check_seconds
from streamstores.runs.run import OWNER, Run, Source, close_source
from streamstores.store import Record, State, StreamInfo, StreamStore

__all__ = ["OWNER", "RunFollower", "Runs", "Source", "TooManyRuns"]

ANSWER_SECONDS = 2.0
"""How long the owner of a reopened stream has to go on before it is taken for gone."""

Revive = Callable[[StreamInfo], "Source | None"]


class TooManyRuns(Exception):
    """This process holds `max_runs` sources already; nothing happened. Retry later."""


class Runs:
    """The runs of one process on one store.

    `revive(info)` gives a source that goes on where the stream `info` ends, or None where
    nothing can. It does no I/O before the source's first step, and no other way leads to a
    second generation. A silent source's stream shows a sign of life every `heartbeat`
    seconds, and a producer that shows none for three times as long is taken for dead:
    processes that share streams must agree on it. A paused source is held for `pause_for`
    seconds. `describe_error(exc)` is the public text for what a source raised.
    """

    def __init__(
        self,
        store: StreamStore,
        *,
        revive: Revive | None = None,
        heartbeat: float = 5.0,
        pause_for: float = 60.0,
        max_runs: int = 1000,
        describe_error: Callable[[Exception], str] | None = None,
    ) -> None:
        check_seconds(heartbeat, "heartbeat")
        check_seconds(pause_for, "pause_for")
        if not heartbeat or max_runs < 1:
            raise InvalidRequest("heartbeat is above 0 and max_runs at least 1")
        self.store = store
        self.revive = revive or (lambda info: None)
        self.heartbeat = heartbeat
        self.pause_for = pause_for
        self.describe_error = describe_error or (lambda exc: "The source failed.")
        self._max_runs = max_runs
        self._name = secrets.token_hex(8)
        self._owners = 0
        self._runs: dict[str, Run] = {}
        self._held: set[Run] = set()  # also those whose stream was deleted and begun anew
        self._work: set[asyncio.Future[StreamInfo]] = set()  # starts and claims under way
        self._closed = False

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
        their source is closed unread. A cancelled start goes on. Raises `TooManyRuns`, and
        as `create` does.
        """
        return await self._to_the_end(self._start(stream_id, source, ttl, attributes or {}))

    async def stop(self, stream_id: str) -> StreamInfo:
        """Save what there is and halt the source, in whichever process it runs.

        What a source of this process has yielded is stored first. Idempotent; a final
        stream stays as it is. Raises `StreamNotFound` and the store's errors.
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
        """Continue a stopped stream: with the paused source of its owner, in whichever
        process it is held; else with a revived one; else the stream stays stopped.

        Of racing calls one continues and the others find the stream streaming. On a stream
        that is not stopped it changes nothing. Raises `StreamNotFound`, `TooManyRuns` and
        the store's errors. Waits up to `ANSWER_SECONDS` for an owner in another process.
        """
        info = await self.store.info(stream_id)
        owner = info.attributes.get(OWNER)
        if info.state is not State.STOPPED or owner is None:
            return info
        if not self._may_be_held(stream_id, owner):
            return await self._to_the_end(self._take_over(info))
        return await self._ask_owner(info)

    async def follow(self, info: StreamInfo, offset: int) -> RunFollower:
        """A follower from `offset` of the stream that `info` describes. It takes over for a
        producer that dies, and at once for one that has handed the stream over."""
        if info.state is State.STREAMING and info.attributes.get(OWNER) == "":
            await self.rescue(info)
        return RunFollower(self, info, offset)

    async def rescue(self, info: StreamInfo) -> None:
        """Take over the stream whose producer was lost at `info`, or stop it where nothing
        can continue it. Does nothing where somebody else was first."""
        run = self._runs.get(info.id)
        if run is not None and run.owner == info.attributes.get(OWNER):
            return  # it lives: it is the store that is slow
        with suppress(TooManyRuns):  # the next look may find room, or another process has it
            await self._to_the_end(self._take_over(info))

    def is_running(self, stream_id: str) -> bool:
        """Whether this process holds the stream's source."""
        return stream_id in self._runs

    async def aclose(self) -> None:
        """Hand over what runs: it is flushed, and any process may claim it at once; what
        nothing can continue is stopped. Paused sources are closed. Idempotent."""
        self._closed = True
        while self._work:
            await asyncio.wait(set(self._work))
        await asyncio.gather(*(run.hand_over() for run in self._held))

    async def claim(self, info: StreamInfo) -> StreamInfo | None:
        """Become the owner of the stream as `info` describes it, streaming or stopped; None
        where it changed meanwhile."""
        owner = self._new_owner()
        try:
            return await self.store.append(
                info.id,
                version=info.version,
                state=State.STREAMING,
                attributes={**info.attributes, OWNER: owner},
            )
        except (Conflict, StreamClosed, StreamNotFound):
            return None
        except OutcomeUnknown:
            now = await self.store.info(info.id)
            return now if now.attributes.get(OWNER) == owner else None

    async def _start(
        self, stream_id: str, source: Source, ttl: float | None, attributes: Mapping[str, str]
    ) -> StreamInfo:
        try:
            self._check_room()
            info = await self._create(stream_id, ttl, attributes)
        except BaseException:
            await close_source(source)
            raise
        self._begin(info, source)
        return info

    async def _create(
        self, stream_id: str, ttl: float | None, attributes: Mapping[str, str]
    ) -> StreamInfo:
        owner = self._new_owner()
        try:
            return await self.store.create(
                stream_id, ttl=ttl, attributes={**attributes, OWNER: owner}
            )
        except OutcomeUnknown:
            info = await self.store.info(stream_id)
            if info.attributes.get(OWNER) != owner:
                raise StreamExists(f"stream {stream_id!r} exists", info) from None
            return info

    async def _ask_owner(self, info: StreamInfo) -> StreamInfo:
        """Reopen the stream for its owner, and take over where that does not answer."""
        try:
            asked = await self.store.append(
                info.id, version=info.version, state=State.STREAMING
            )
        except (Conflict, StreamClosed) as exc:
            return exc.info
        answer = await self._answer_to(asked)
        if answer.version != asked.version:
            return answer
        return await self._to_the_end(self._take_over(answer))

    async def _answer_to(self, asked: StreamInfo) -> StreamInfo:
        """The stream as its owner changed it, or unchanged where that does not answer."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + ANSWER_SECONDS
        answer = asked
        while answer.version == asked.version and clock() < deadline:  # a wait may end early
            timeout = max(deadline - clock(), 0)
            answer = await self.store.wait(asked.id, version=asked.version, timeout=timeout)
        return answer

    async def _take_over(self, info: StreamInfo) -> StreamInfo:
        """Claim the stream for a revived source; without one it is, or becomes, stopped."""
        source = self.revive(info)
        if source is None:
            return await self._leave_stopped(info)
        try:
            self._check_room()
            claimed = await self.claim(info)
        except BaseException:
            await close_source(source)
            raise
        if claimed is None:
            await close_source(source)
            return await self.store.info(info.id)
        self._begin(claimed, source)
        return claimed

    async def _leave_stopped(self, info: StreamInfo) -> StreamInfo:
        if info.state is not State.STREAMING:
            return info
        try:
            return await self.store.mark_done(info.id, State.STOPPED, version=info.version)
        except (Conflict, StreamClosed) as exc:
            return exc.info

    def _begin(self, info: StreamInfo, source: Source) -> None:
        """Drive `source` into a stream that this process has just created or claimed."""
        run = self._runs[info.id] = Run(self, info, source)
        self._held.add(run)
        run.task.add_done_callback(lambda _: self._forget(run))

    def _forget(self, run: Run) -> None:
        self._held.discard(run)
        if self._runs.get(run.stream_id) is run:
            del self._runs[run.stream_id]

    def _check_room(self) -> None:
        if self._closed:
            raise StoreUnavailable("this process is closing")
        if len(self._held) + len(self._work) > self._max_runs:  # the caller is one of _work
            raise TooManyRuns(f"this process produces {self._max_runs} streams already")

    def _new_owner(self) -> str:
        self._owners += 1
        return f"{self._name}.{self._owners}"

    def _may_be_held(self, stream_id: str, owner: str) -> bool:
        """Whether the owner's paused source may still be held, here or elsewhere."""
        if owner.startswith(f"{self._name}."):
            run = self._runs.get(stream_id)
            return run is not None and run.owner == owner and not run.is_ending
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
            task.exception()  # read, so that an abandoned one is not reported


class RunFollower:
    """One reader's place in a stream, whoever produces it and however often that changes."""

    def __init__(self, runs: Runs, info: StreamInfo, offset: int) -> None:
        self._runs = runs
        self._first_info = info
        self._rescued: int | None = None  # the version at which a rescue was tried
        self._follower = self._follow(offset)

    @property
    def info(self) -> StreamInfo:
        """The stream as last seen; after the last batch, how it ended."""
        return self._follower.info or self._first_info

    async def batch(self) -> list[Record]:
        """As `Follower.batch`, except that a producer that dies or hands its stream over is
        replaced, or the stream stopped, instead of `ProducerLost`."""
        while True:
            try:
                return await self._follower.batch()
            except ProducerLost as lost:
                self._rescued = lost.info.version
                await self._runs.rescue(lost.info)
            self._follower = self._follow(self._follower.offset)

    async def aclose(self) -> None:
        await self._follower.aclose()

    def _follow(self, offset: int) -> Follower:
        is_ours = OWNER in self._first_info.attributes
        patience = 3 * self._runs.heartbeat if is_ours else None
        return follow(
            self._runs.store,
            self._first_info.id,
            offset,
            producer_timeout=patience,
            is_lost=self._is_handed_over,
        )

    def _is_handed_over(self, info: StreamInfo) -> bool:
        """Once a version: where this process has no room for it, it waits as for a death."""
        return info.attributes.get(OWNER) == "" and info.version != self._rescued
