"""The bucket: boto3 in threads, its retries, and the one place where its errors become ours."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import boto3  # type: ignore[import-untyped]  # it ships no types
import botocore.session  # type: ignore[import-untyped]  # nor does it
from botocore import exceptions as boto
from botocore.config import Config  # type: ignore[import-untyped]

from streamstores.backends._s3.clock import ServerClock
from streamstores.backends._s3.options import Options
from streamstores.errors import InvalidRequest, OutcomeUnknown, StoreUnavailable

T = TypeVar("T")

FOUND = "found"
WRITTEN = "written"
MISSING = "missing"
UNCHANGED = "unchanged"
REFUSED = "refused"
"""The condition of a PUT or a DELETE did not hold."""

_PAUSES = (0.05, 0.2, 0.8)  # seconds before a call is tried again
_MISSING_CODES = frozenset({"NoSuchKey", "NoSuchUpload", "404", "NotFound"})
_REFUSED_CODES = frozenset({"PreconditionFailed", "412"})
_NOT_APPLIED_CODES = frozenset(
    {
        "ConditionalRequestConflict",
        "OperationAborted",
        "RequestTimeTooSkewed",
        "SlowDown",
        "SlowDownWrite",
        "SlowDownRead",
        "ServiceUnavailable",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_NEVER_SENT = (
    boto.EndpointConnectionError,
    boto.ConnectTimeoutError,
    boto.ProxyConnectionError,
    boto.SSLError,
)


class Answer(NamedTuple):
    """What S3 said. Times are seconds since 1970 on its clock."""

    status: str
    date: float
    etag: str = ""
    modified: float = 0.0
    body: bytes = b""
    in_doubt: bool = False
    """A REFUSED or MISSING one may be of one's own doing: an earlier try may have landed."""


class Listing(NamedTuple):
    date: float
    keys: Sequence[str]
    modified: Sequence[float]
    folders: Sequence[str]
    next_token: str | None


class Bucket:
    """One bucket. A call is one request, tried again where S3 or the way to it fails.

    Raises `StoreUnavailable` when nothing was applied, and `OutcomeUnknown` when a change
    may have been. A cancelled call goes on in its thread; `aclose` waits for those.
    """

    def __init__(self, options: Options, client: Any | None) -> None:
        self.clock = ServerClock()
        self.removes_conditionally = False
        self._options = options
        self._client = client
        self._owns_client = client is None
        self._threads = ThreadPoolExecutor(options.max_connections, "streamstores-s3")

    async def connect(self) -> None:
        """Make the client, which reads files for a tenth of a second. No request."""
        if self._client is None:
            self._client = await self._in_thread(partial(_connect, self._options))

    async def check(self, key: str) -> None:
        """Find out, by an object at `key`, whether conditions are kept; five requests.

        Raises `InvalidRequest` where they are not: races would be decided wrongly.
        """
        wrong = '"00000000000000000000000000000000"'
        await self.put(key, b"1", absent=True)
        answers = await asyncio.gather(
            self.put(key, b"2", absent=True), self.put(key, b"3", match=wrong)
        )
        if any(answer.status == WRITTEN for answer in answers):
            await self.delete(key)
            raise InvalidRequest(
                "this S3 server ignores If-None-Match or If-Match on PUT, without which two "
                "writers could both win: use one that has conditional writes"
            )
        try:
            answer = await self.delete(key, match=wrong)
            self.removes_conditionally = answer.status == REFUSED
        except (StoreUnavailable, OutcomeUnknown):
            self.removes_conditionally = False
        await self.delete(key)

    async def aclose(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        if self._owns_client and self._client is not None:
            self._client.close()
            self._client = None

    async def get(
        self, key: str, *, first: int = 0, last: int | None = None, unless: str | None = None
    ) -> Answer:
        """FOUND with the bytes `first` to `last`, both included; MISSING; or UNCHANGED
        where the object still has the ETag `unless`."""
        options: dict[str, Any] = {"Key": key}
        if first or last is not None:
            options["Range"] = f"bytes={first}-{'' if last is None else last}"
        if unless:
            options["IfNoneMatch"] = unless
        return await self._ask(partial(self._get, options), changes=False)

    async def put(
        self, key: str, body: bytes, *, match: str | None = None, absent: bool = False
    ) -> Answer:
        """WRITTEN; REFUSED or MISSING where the key is not `absent` or does not `match`."""
        condition = {"IfNoneMatch": "*"} if absent else {"IfMatch": match} if match else {}
        call = partial(self._write, "put_object", Key=key, Body=body, **condition)
        return await self._ask(call, changes=True)

    async def delete(self, key: str, *, match: str | None = None) -> Answer:
        condition = {"IfMatch": match} if match else {}
        call = partial(self._write, "delete_object", Key=key, **condition)
        return await self._ask(call, changes=True)

    async def delete_all(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), 1000):
            objects = [{"Key": key} for key in keys[start : start + 1000]]
            call = partial(self._call, "delete_objects", Delete={"Objects": objects})
            answer = await self._ask(call, changes=True)
            if answer.get("Errors"):
                raise StoreUnavailable(f"S3 keeps {answer['Errors'][0]['Key']!r}")

    async def list(
        self,
        prefix: str,
        *,
        at_most: int = 1000,
        by_folder: bool = False,
        token: str | None = None,
    ) -> Listing:
        """Up to 1000 keys that begin with `prefix`, in the order of their bytes."""
        options: dict[str, Any] = {"Prefix": prefix, "MaxKeys": at_most}
        if by_folder:
            options["Delimiter"] = "/"
        if token:
            options["ContinuationToken"] = token
        return await self._ask(partial(self._list, options), changes=False)

    async def upload(self, key: str) -> Upload:
        call = partial(self._call, "create_multipart_upload", Key=key)
        answer = await self._ask(call, changes=True)
        return Upload(self, key, answer["UploadId"])

    async def _ask(self, call: Callable[[], T], *, changes: bool) -> T:
        give_up_at = time.monotonic() + self._options.timeout
        return await self._in_thread(partial(_try, call, give_up_at, changes, self._options))

    async def _in_thread(self, call: Callable[[], T]) -> T:
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RuntimeError as exc:  # the pool was shut down
            raise InvalidRequest("the store is closed") from exc
        return await running

    def _get(self, options: dict[str, Any]) -> Answer:
        answer = self._expect("get_object", **options)
        if isinstance(answer, Answer):
            return answer
        body = answer["Body"].read()
        modified = answer["LastModified"].timestamp()
        return Answer(FOUND, _date(answer), answer["ETag"], modified, body)

    def _write(self, operation: str, **options: Any) -> Answer:
        answer = self._expect(operation, **options)
        if isinstance(answer, Answer):
            return answer
        return Answer(WRITTEN, _date(answer), answer.get("ETag", ""))

    def _list(self, options: dict[str, Any]) -> Listing:
        answer = self._call("list_objects_v2", **options)
        objects = answer.get("Contents", ())
        return Listing(
            _date(answer),
            [each["Key"] for each in objects],
            [each["LastModified"].timestamp() for each in objects],
            [each["Prefix"] for each in answer.get("CommonPrefixes", ())],
            answer.get("NextContinuationToken"),
        )

    def _expect(self, operation: str, **options: Any) -> Any:
        """The answer, an `Answer` where it is one of the errors that a call asks for."""
        try:
            return self._call(operation, **options)
        except boto.ClientError as exc:
            status = _status(exc.response["Error"]["Code"])
            if status is None:
                raise
            tried_before = exc.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            return Answer(status, _date(exc.response), in_doubt=tried_before)

    def _call(self, operation: str, **options: Any) -> Any:
        assert self._client is not None, "connect comes first"
        asked_at = time.monotonic()
        answer = None
        try:
            answer = getattr(self._client, operation)(Bucket=self._options.bucket, **options)
        except boto.ClientError as exc:
            answer = exc.response
            raise
        finally:
            if answer is not None:
                self.clock.observe(_date(answer), asked_at, time.monotonic())
        return answer


class Upload:
    """A multipart upload: parts of at least 5 MiB, except the last."""

    def __init__(self, bucket: Bucket, key: str, upload_id: str) -> None:
        self._bucket = bucket
        self._names = {"Key": key, "UploadId": upload_id}
        self._parts: list[dict[str, Any]] = []

    async def add(self, body: bytes) -> None:
        number = len(self._parts) + 1
        write = self._bucket._write
        call = partial(write, "upload_part", PartNumber=number, Body=body, **self._names)
        answer = await self._bucket._ask(call, changes=True)
        self._parts.append({"PartNumber": number, "ETag": answer.etag})

    async def finish(self) -> None:
        parts = {"Parts": self._parts}
        write = self._bucket._write
        call = partial(write, "complete_multipart_upload", MultipartUpload=parts, **self._names)
        await self._bucket._ask(call, changes=True)

    async def abort(self) -> None:
        call = partial(self._bucket._write, "abort_multipart_upload", **self._names)
        await self._bucket._ask(call, changes=True)


def _connect(options: Options) -> Any:
    """A client of our own. The checksums that newer versions of boto3 add to every request
    are left out, as other servers than AWS's do not all take them; blocks have their own."""
    style = {"addressing_style": "path"} if options.path_style else {}
    config = Config(
        connect_timeout=options.timeout / 4,
        read_timeout=options.timeout / 2,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=options.max_connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        s3=style,
    )
    with _translate_errors():
        return _session().client(
            "s3",
            endpoint_url=options.endpoint_url,
            region_name=options.region,
            aws_access_key_id=options.access_key,
            aws_secret_access_key=options.secret_key,
            aws_session_token=options.session_token,
            config=config,
        )


def _session() -> Any:
    """A session of our own. They share the descriptions of S3, which take half a second to
    read."""
    session = botocore.session.Session()
    session.register_component("data_loader", _loader())
    return boto3.Session(botocore_session=session)


@cache
def _loader() -> Any:
    return botocore.session.Session().get_component("data_loader")


class _Final(StoreUnavailable):
    """Trying again will not help."""


def _try(call: Callable[[], T], give_up_at: float, changes: bool, options: Options) -> T:
    """The result of `call`, which is tried again while there is time for one more."""
    in_doubt = False
    for pause in (*_PAUSES, None):
        try:
            with _translate_errors():
                return _marked(call(), in_doubt)
        except (StoreUnavailable, OutcomeUnknown) as exc:
            in_doubt = in_doubt or (changes and isinstance(exc, OutcomeUnknown))
            left = give_up_at - time.monotonic()
            is_last = pause is None or left < pause + options.timeout / 2
            if is_last or isinstance(exc, _Final):
                kind = OutcomeUnknown if in_doubt else StoreUnavailable
                raise kind(f"{exc} (s3://{options.bucket})") from exc.__cause__
        time.sleep((pause or 0) * random.uniform(0.5, 1.0))
    raise AssertionError("the last try returns or raises")


def _marked(result: T, in_doubt: bool) -> T:
    if in_doubt and isinstance(result, Answer):
        return result._replace(in_doubt=True)
    return result


@contextmanager
def _translate_errors() -> Iterator[None]:
    """`OutcomeUnknown`: S3 may have done it. `StoreUnavailable`: it has not; `_Final`, and
    will not."""
    try:
        yield
    except boto.ClientError as exc:
        raise _by_code(exc) from exc
    except _NEVER_SENT as exc:
        raise StoreUnavailable(f"S3 cannot be reached: {exc}") from exc
    except boto.HTTPClientError as exc:
        raise OutcomeUnknown(f"S3 went away: {exc}") from exc
    except boto.IncompleteReadError as exc:
        raise OutcomeUnknown(f"S3 broke off: {exc}") from exc
    except (boto.BotoCoreError, ValueError) as exc:
        raise _Final(f"S3 cannot be used: {exc}") from exc


def _by_code(exc: Any) -> StoreUnavailable | OutcomeUnknown:
    code = exc.response["Error"]["Code"]
    text = exc.response["Error"].get("Message") or "no reason given"
    status = exc.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return _Final("the bucket does not exist")
    if code in _NOT_APPLIED_CODES:
        return StoreUnavailable(f"S3 is busy: {code}, {text}")
    if code == "NotImplemented":
        return _Final(f"S3 cannot do this: {text}")
    if status >= 500 or code in {"InternalError", "RequestTimeout"}:
        return OutcomeUnknown(f"S3 failed: {code}, {text}")
    return _Final(f"S3 refuses: {code}, {text}")


def _status(code: str) -> str | None:
    if code in _MISSING_CODES:
        return MISSING
    if code in _REFUSED_CODES:
        return REFUSED
    return UNCHANGED if code in {"304", "NotModified"} else None


def _date(answer: Any) -> float:
    """Seconds of the `Date` header; this machine's where a server sends none."""
    date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    if date is None:
        return float(int(time.time()))
    return parsedate_to_datetime(date).timestamp()
