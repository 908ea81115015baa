"""What the errors of boto3 mean: the only place where they become the store's errors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from botocore import exceptions as boto  # type: ignore[import-untyped]  # it ships no types

from streamstores.backends._s3 import s3_answers
from streamstores.backends._s3.driver_answers import BrokenAnswer
from streamstores.errors import OutcomeUnknown, StoreUnavailable, StreamStoreError

# Not "404", which is what boto3 makes of a body that it cannot read: a proxy's page, or an
# answer that was cut, says nothing about an object.
_MISSING_CODES = frozenset({"NoSuchKey", "NoSuchUpload"})
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


class RetryUseless(StoreUnavailable):
    """Nothing was applied, and another try will not help."""


@contextmanager
def translate_errors() -> Generator[None, None, None]:
    """Raise `OutcomeUnknown` if S3 may have applied the request, `StoreUnavailable` if it has
    not, and `RetryUseless` if it never will."""
    try:
        yield
    except StreamStoreError:
        raise
    except boto.ClientError as exc:
        raise _error_of_code(exc) from exc
    except _NEVER_SENT as exc:
        raise StoreUnavailable(f"S3 cannot be reached: {exc}") from exc
    except (boto.HTTPClientError, boto.IncompleteReadError) as exc:
        raise OutcomeUnknown(f"the connection to S3 failed: {exc}") from exc
    except (boto.BotoCoreError, ValueError) as exc:
        raise RetryUseless(f"S3 cannot be used: {exc}") from exc
    except BrokenAnswer as exc:
        raise OutcomeUnknown(f"S3's answer is not whole: {exc}") from exc
    except Exception as exc:
        # boto3 passes on what urllib3, ssl and sockets raise while it reads the body of an
        # error, and its parser's own error. Each comes after the request was sent.
        raise OutcomeUnknown(f"the connection to S3 failed: {exc!r}") from exc


def status_of(exc: boto.ClientError) -> str | None:
    """The status of an answer that S3 gives as an error, though callers ask for it."""
    code = cast("str", exc.response["Error"]["Code"])
    if code in _MISSING_CODES:
        return s3_answers.MISSING
    if code in _REFUSED_CODES:
        return s3_answers.REFUSED
    return s3_answers.UNCHANGED if code in {"304", "NotModified"} else None


def _error_of_code(exc: Any) -> StoreUnavailable | OutcomeUnknown:
    """The error that S3's code stands for; without a body, boto3 takes the status for it."""
    code = exc.response["Error"]["Code"]
    text = exc.response["Error"].get("Message") or "no reason given"
    status = exc.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return RetryUseless("the bucket does not exist")
    # 409 is for a conditional write that meets another write: S3 asks its client to try again.
    if code in _NOT_APPLIED_CODES or status in {409, 429}:
        return StoreUnavailable(f"S3 is busy: {code}, {text}")
    if code == "NotImplemented":
        return RetryUseless(f"S3 cannot do this: {text}")
    if code in {"", str(status)} and status < 500:
        return StoreUnavailable(f"S3 refuses and gives no reason: HTTP status {status}")
    # S3 may fail after it has written.
    if status >= 500 or code in {"InternalError", "RequestTimeout"}:
        return OutcomeUnknown(f"S3 failed: {code}, {text}")
    return RetryUseless(f"S3 refuses: {code}, {text}")
