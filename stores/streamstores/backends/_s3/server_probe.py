"""What an S3 server does with conditions, found out when a store opens.

Servers that call themselves compatible differ: some ignore a condition, some check it and then
write without a lock, some take an ETag only in one of its two forms. Every form of request
that decides something later is tried here, on objects of its own, and by racing writers.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple

from streamstores.backends._s3.bucket import Bucket, EtagForm, ServerTraits, UnorderedListing
from streamstores.backends._s3.s3_answers import ObjectAnswer
from streamstores.errors import (
    InvalidRequest,
    OutcomeUnknown,
    StoreUnavailable,
    StreamStoreError,
)

RACERS = 8
_PADDING_BYTES = 4096  # a larger body widens the gap between a check and the write after it
_WRONG_ETAG = '"00000000000000000000000000000000"'
_FORMS = (EtagForm.QUOTED, EtagForm.UNQUOTED)


class _Race(NamedTuple):
    """Writers of different bodies under one condition, and what was there after them."""

    claimed: frozenset[bytes]
    """The bodies that S3 said it wrote."""
    left: ObjectAnswer

    @property
    def has_false_winner(self) -> bool:
        return bool(self.claimed - {self.left.body})


class ServerProbe:
    """Probes one server, below a key that is used for nothing else.

    37 requests in 14 round trips: 26 PUT, 6 GET, a LIST and 4 DELETE. What no probe can
    prove: a server that usually decides a race rightly, or whose nodes disagree for a moment,
    may pass.
    """

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self._key = f"{key}/a"
        self._second_key = f"{key}/b"

    async def run(self) -> ServerTraits:
        """How to talk to this server; raises `InvalidRequest` if no way is safe."""
        try:
            return await self._probe()
        finally:
            with suppress(StoreUnavailable, OutcomeUnknown):
                await asyncio.gather(
                    self._bucket.delete(self._key), self._bucket.delete(self._second_key)
                )

    async def _probe(self) -> ServerTraits:
        """The order matters: each step leaves the object that the next needs."""
        created, _ = await asyncio.gather(
            self._race("create", match=None), self._bucket.put(self._second_key, b"b")
        )
        if not created.left.is_found or created.has_false_winner:
            raise InvalidRequest(
                "this S3 server ignores If-None-Match on PUT, or checks it without a lock, so "
                f"two writers can both win: {_ADVICE}"
            )
        form, current = await self._etag_form(created.left)
        # Once more: with all connections open, the writers meet more closely.
        again = await self._race("again", match=current.etag)
        self._refuse_false_winner(again)
        current = again.left
        await self._check_listing()
        return ServerTraits(
            etag_form=form,
            compares_on_get=await self._compares_on_get(current),
            removes_conditionally=await self._removes_conditionally(current),
        )

    async def _etag_form(self, current: ObjectAnswer) -> tuple[EtagForm, ObjectAnswer]:
        """The form in which `If-Match` takes a right ETag, and no wrong ETag.

        Ceph RGW (16.2) answers 412 to a right ETag in quotes, which HTTP asks for.
        """
        for form in _FORMS:
            self._bucket.traits = self._bucket.traits._replace(etag_form=form)
            wrong = await self._bucket.put(self._key, b"wrong", match=_WRONG_ETAG)
            race = await self._race(form.value, match=current.etag)
            self._refuse_false_winner(race, wrong)
            if race.left.body != current.body:
                return form, race.left
        raise InvalidRequest(
            f"this S3 server refuses a right ETag in If-Match, in any form: {_ADVICE}"
        )

    def _refuse_false_winner(self, race: _Race, wrong: ObjectAnswer | None = None) -> None:
        took_wrong_etag = wrong is not None and wrong.is_written
        if took_wrong_etag or race.has_false_winner or not race.left.is_found:
            raise InvalidRequest(
                "this S3 server ignores If-Match on PUT, or checks it without a lock, so two "
                f"writers can both win: {_ADVICE}"
            )

    async def _race(self, name: str, *, match: str | None) -> _Race:
        """Let writers race for the object: to create it, or to replace what has this ETag."""
        bodies = [f"{name} {n}".encode().ljust(_PADDING_BYTES) for n in range(RACERS)]
        tries = [
            self._bucket.put(self._key, body, match=match, absent=match is None)
            for body in bodies
        ]
        answers = await asyncio.gather(*tries, return_exceptions=True)
        claimed: set[bytes] = set()
        # A writer without an answer claims nothing: its body may be what is left, or not.
        for body, answer in zip(bodies, answers, strict=True):
            if isinstance(answer, ObjectAnswer) and answer.is_written:
                claimed.add(body)
            elif isinstance(answer, BaseException) and not isinstance(answer, OutcomeUnknown):
                raise answer
        return _Race(frozenset(claimed), await self._bucket.get(self._key))

    async def _check_listing(self) -> None:
        """Both objects are there, in the order of their keys."""
        keys: list[str] = []
        try:
            async for page in self._bucket.pages(self._key[:-1]):
                keys += page.keys
        except UnorderedListing:
            keys.clear()
        if keys != [self._key, self._second_key]:
            raise InvalidRequest(
                "this S3 server does not list what was written just now, in the order of the "
                f"keys: {_ADVICE}"
            )

    async def _compares_on_get(self, current: ObjectAnswer) -> bool:
        """Whether a GET with `If-None-Match` shows if an object has changed."""
        same, other = await asyncio.gather(
            self._bucket.get(self._key, unless=current.etag),
            self._bucket.get(self._key, unless=_WRONG_ETAG),
        )
        return same.is_unchanged and other.is_found

    async def _removes_conditionally(self, current: ObjectAnswer) -> bool:
        """Whether a DELETE with `If-Match` spares an object with another ETag, and only that.
        If not, a vacant head takes the place of a deleted head."""
        try:
            wrong = await self._bucket.delete(self._key, match=_WRONG_ETAG)
            right = await self._bucket.delete(self._key, match=current.etag)
            gone = await self._bucket.get(self._key)
        except StreamStoreError:
            return False
        return wrong.is_refused and right.is_written and gone.is_missing


_ADVICE = "use a server that has conditional writes (docs/stores/s3.md lists them)"
