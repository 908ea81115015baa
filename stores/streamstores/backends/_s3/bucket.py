"""The requests to one bucket: boto3 in threads, with retries."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import ClientError  # type: ignore[import-untyped]  # it has no types

from streamstores.backends._s3.boto_client import (
    TRY_SHARE,
    expect_no_continue,
    make_client,
    our_call,
)
from streamstores.backends._s3.call_threads import CallNotStarted, CallOverdue, CallThreads
from streamstores.backends._s3.driver_answers import (
    check_removed,
    date_of,
    key_listing,
    object_answer,
    upload_id_of,
    written_answer,
)
from streamstores.backends._s3.driver_errors import RetryUseless, status_of, translate_errors
from streamstores.backends._s3.s3_answers import KeyListing, ObjectAnswer
from streamstores.backends._s3.s3_options import S3Options
from streamstores.backends._s3.server_clock import ServerClock
from streamstores.errors import InvalidRequest, OutcomeUnknown, StoreUnavailable

T = TypeVar("T")

_PAUSES = (0.05, 0.2, 0.8)  # seconds before a call is tried again
_MAKE_CLIENT_SECONDS = 60.0  # it reads files only, but on a busy machine that takes a while
_MOST_EMPTY_PAGES = 100  # that a server may send in a row
_NAMES_WHAT_IT_WROTE = frozenset({"put_object", "upload_part", "complete_multipart_upload"})


class UnorderedListing(StoreUnavailable):
    """The pages of a listing cannot be put together."""

    def __init__(self) -> None:
        super().__init__("this S3 server lists keys twice, or not in their order")


class EtagForm(Enum):
    """How a condition names an ETag."""

    QUOTED = "quoted"
    UNQUOTED = "unquoted"

    def of(self, etag: str) -> str:
        return etag if self is EtagForm.QUOTED else etag.strip('"')


class ServerTraits(NamedTuple):
    """What a server's conditions can be used for."""

    etag_form: EtagForm = EtagForm.QUOTED
    compares_on_get: bool = True
    """Otherwise an unchanged object is sent again."""
    removes_conditionally: bool = True
    """Whether DELETE keeps `If-Match`."""


class Bucket:
    """One bucket. A call is one request, tried again if S3 or the connection to it fails.

    Raises `StoreUnavailable` if nothing was applied, and `OutcomeUnknown` if a change may
    have been, after the timeout at the latest. A cancelled call continues in its thread.
    """

    def __init__(self, options: S3Options, client: Any | None) -> None:
        self.clock = ServerClock()
        self.traits = ServerTraits()
        """Replaced by what a `ServerProbe` finds."""
        self._options = options
        self._client = client
        self._owns_client = client is None
        self._threads = CallThreads(options.max_connections)
        self._is_closed = False

    async def connect(self) -> None:
        """Make the client, if none was passed in. No request."""
        if self._client is None:
            make = partial(make_client, self._options)
            self._client = await self._try(make, _MAKE_CLIENT_SECONDS, False)
        expect_no_continue(self._client)

    async def aclose(self, seconds: float) -> None:
        """Wait at most `seconds` for changes in flight."""
        self._is_closed = True
        await self._threads.aclose(seconds)
        if self._owns_client and self._client is not None:
            self._client.close()
            self._client = None

    async def get(
        self, key: str, *, first: int = 0, last: int | None = None, unless: str | None = None
    ) -> ObjectAnswer:
        """The object with its bytes from `first` to `last`, both included; or that it is
        missing; or that it is unchanged, if it still has the ETag `unless`."""
        options: dict[str, Any] = {"Key": key}
        if first or last is not None:
            options["Range"] = f"bytes={first}-{'' if last is None else last}"
        if unless and self.traits.compares_on_get:
            options["IfNoneMatch"] = self.traits.etag_form.of(unless)
        return await self._ask(partial(self._get, options, first, last), changes=False)

    async def put(
        self, key: str, body: bytes, *, match: str | None = None, absent: bool = False
    ) -> ObjectAnswer:
        """Written; or refused or missing if the key is not `absent` or does not `match`."""
        condition = {"IfNoneMatch": "*"} if absent else self._match_condition(match)
        call = partial(self._write, "put_object", Key=key, Body=body, **condition)
        return await self._ask(call, changes=True)

    async def delete(self, key: str, *, match: str | None = None) -> ObjectAnswer:
        """Written, also if there was no object; refused or missing if it is not `match`."""
        condition = self._match_condition(match)
        call = partial(self._write, "delete_object", Key=key, **condition)
        return await self._ask(call, changes=True)

    def _match_condition(self, etag: str | None) -> dict[str, str]:
        if etag is None:
            return {}
        assert etag, "an empty condition would match everything"
        return {"IfMatch": self.traits.etag_form.of(etag)}

    async def delete_all(self, keys: Sequence[str]) -> None:
        """Delete the objects at `keys`; one request for each 1000."""
        for start in range(0, len(keys), 1000):
            objects = [{"Key": key} for key in keys[start : start + 1000]]
            await self._ask(partial(self._delete_all, objects), changes=True)

    async def list(self, prefix: str, *, at_most: int = 1000) -> KeyListing:
        """The first keys that begin with `prefix`, in the order of their bytes; 1000 at most.

        None are found only if there are none: a page may be empty and not the last.
        """
        async for page in self.pages(prefix, at_most=at_most):
            if page.keys or page.next_token is None:
                return page
        raise AssertionError("the last page has no token")

    async def pages(
        self, prefix: str, *, at_most: int = 1000, by_folder: bool = False
    ) -> AsyncIterator[KeyListing]:
        """All keys that begin with `prefix`, or all folders, in pages of at most 1000.

        Raises `StoreUnavailable` if a page does not continue its predecessor.
        """
        last, token, empty_pages = "", None, 0
        while True:
            page = await self._page(prefix, at_most, by_folder, token)
            names = page.names
            # The newest segment is the first key: in any other order, a stream looks shorter.
            if [last, *names] != sorted({last, *names}):
                raise UnorderedListing
            empty_pages = 0 if names else empty_pages + 1
            if page.next_token is not None and page.next_token == token:
                raise StoreUnavailable("this S3 server repeats a page of its listing")
            if empty_pages > _MOST_EMPTY_PAGES:
                raise StoreUnavailable("this S3 server's listing does not end")
            yield page
            token = page.next_token
            if token is None:
                return
            last = names[-1] if names else last

    async def _page(
        self, prefix: str, at_most: int, by_folder: bool, token: str | None
    ) -> KeyListing:
        options: dict[str, Any] = {"Prefix": prefix, "MaxKeys": at_most}
        if by_folder:
            options["Delimiter"] = "/"
        if token:
            options["ContinuationToken"] = token
        return await self._ask(partial(self._list, options), changes=False)

    async def upload(self, key: str) -> Upload:
        """Begin a multipart upload."""
        upload_id = await self._ask(partial(self._begin_upload, key), changes=True)
        return Upload(self, key, upload_id)

    async def change_upload(self, operation: str, **options: Any) -> ObjectAnswer:
        return await self._ask(partial(self._write, operation, **options), changes=True)

    async def _ask(self, call: Callable[[], T], *, changes: bool) -> T:
        """The result of `call`, which is tried again while there is time for another try.

        All tries together take at most the timeout, pauses and the wait for a thread included.
        """
        give_up_at = time.monotonic() + self._options.timeout
        in_doubt = False
        for pause in (*_PAUSES, None):
            try:
                result = await self._try(call, give_up_at - time.monotonic(), changes)
                return _marked(result, in_doubt)
            except (StoreUnavailable, OutcomeUnknown) as exc:
                # Once in doubt, always: what an earlier try wrote may be what refuses a later
                # try.
                in_doubt = in_doubt or (changes and isinstance(exc, OutcomeUnknown))
                left = give_up_at - time.monotonic()
                # A try for whose answer no time is left would only add a doubt.
                is_last = pause is None or left < pause + self._options.timeout * TRY_SHARE
                if is_last or isinstance(exc, RetryUseless):
                    kind = OutcomeUnknown if in_doubt else StoreUnavailable
                    raise kind(f"{exc} (s3://{self._options.bucket})") from exc.__cause__
            await asyncio.sleep((pause or 0) * random.uniform(0.5, 1.0))
        raise AssertionError("the last try returns or raises")

    async def _try(self, call: Callable[[], T], seconds: float, changes: bool) -> T:
        if self._is_closed:
            raise InvalidRequest("the store is closed")
        try:
            return await self._threads.run(partial(_translated, call), seconds, changes=changes)
        except CallNotStarted as exc:
            raise StoreUnavailable(str(exc)) from exc
        except CallOverdue as exc:
            raise OutcomeUnknown(str(exc)) from exc

    def _get(self, options: dict[str, Any], first: int, last: int | None) -> ObjectAnswer:
        answer = self._expect("get_object", **options)
        if isinstance(answer, ObjectAnswer):
            return answer
        return object_answer(answer, first, last)

    def _write(self, operation: str, **options: Any) -> ObjectAnswer:
        answer = self._expect(operation, **options)
        if isinstance(answer, ObjectAnswer):
            return answer
        return written_answer(answer, has_etag=operation in _NAMES_WHAT_IT_WROTE)

    def _begin_upload(self, key: str) -> str:
        return upload_id_of(self._call("create_multipart_upload", Key=key))

    def _delete_all(self, objects: Sequence[dict[str, str]]) -> None:
        answer = self._call("delete_objects", Delete={"Objects": objects})
        check_removed(answer, [each["Key"] for each in objects])
        if answer.get("Errors"):
            raise StoreUnavailable(f"S3 keeps {answer['Errors'][0]['Key']!r}")

    def _list(self, options: dict[str, Any]) -> KeyListing:
        return key_listing(self._call("list_objects_v2", **options), options["Prefix"])

    def _expect(self, operation: str, **options: Any) -> Any:
        """S3's answer; an `ObjectAnswer` if it is one of the errors that callers ask for."""
        try:
            return self._call(operation, **options)
        except ClientError as exc:
            status = status_of(exc)
            if status is None:
                raise
            # A client that was passed in may retry by itself. Its earlier tries may have
            # landed, so that this refusal may be their doing.
            response: Any = exc.response
            tried_before = response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            return ObjectAnswer(status, date_of(response), in_doubt=tried_before)

    def _call(self, operation: str, **options: Any) -> Any:
        """What boto3 returns or raises; the clock has learned from its date either way."""
        assert self._client is not None, "connect comes first"
        asked_at = time.monotonic()
        answer: Any = None
        try:
            answer = getattr(self._client, operation)(Bucket=self._options.bucket, **options)
        except ClientError as exc:
            answer = exc.response
            raise
        finally:
            if answer is not None:
                self.clock.observe(date_of(answer), asked_at, time.monotonic())
        return answer


class Upload:
    """A multipart upload: parts of at least 5 MiB, except the last."""

    def __init__(self, bucket: Bucket, key: str, upload_id: str) -> None:
        self._bucket = bucket
        self._names = {"Key": key, "UploadId": upload_id}
        self._parts: list[dict[str, Any]] = []

    async def add(self, body: bytes) -> None:
        number = len(self._parts) + 1
        answer = await self._bucket.change_upload(
            "upload_part", PartNumber=number, Body=body, **self._names
        )
        self._parts.append({"PartNumber": number, "ETag": answer.etag})

    async def finish(self) -> None:
        await self._bucket.change_upload(
            "complete_multipart_upload",
            MultipartUpload={"Parts": self._parts},
            **self._names,
        )

    async def abort(self) -> None:
        await self._bucket.change_upload("abort_multipart_upload", **self._names)


def _translated(call: Callable[[], T]) -> T:
    """Runs in a thread."""
    with our_call(), translate_errors():
        return call()


def _marked(result: T, in_doubt: bool) -> T:
    if in_doubt and isinstance(result, ObjectAnswer):
        return result._replace(in_doubt=True)
    return result
