"""From boto3's parsed answers to those of the store; what is not whole is refused.

boto3 parses what it gets: a body that ends too early, or a page of a proxy, becomes an answer
with fewer fields. An empty listing must not come of that, nor a missing object.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from streamstores.backends._s3.s3_answers import FOUND, WRITTEN, KeyListing, ObjectAnswer


class BrokenAnswer(Exception):
    """What came back lacks what every answer of S3 to this request has."""


def object_answer(answer: Any, first: int, last: int | None) -> ObjectAnswer:
    """The answer to a GET of the bytes `first` to `last`; reads the body."""
    body = answer["Body"].read()
    if len(body) != answer.get("ContentLength", len(body)):
        raise BrokenAnswer("the body of the object is cut")
    if first or last is not None:
        body = _range_of(answer, body, first, last)
    modified = _field(answer, "LastModified").timestamp()
    return ObjectAnswer(FOUND, date_of(answer), _field(answer, "ETag"), modified, body)


def written_answer(answer: Any, *, has_etag: bool) -> ObjectAnswer:
    """The answer to a request that wrote or removed an object. `has_etag`: the answer to a
    write names what was written, or it is the answer of something else than S3."""
    etag = _field(answer, "ETag") if has_etag else ""
    return ObjectAnswer(WRITTEN, date_of(answer), etag)


def upload_id_of(answer: Any) -> str:
    upload_id: str = _field(answer, "UploadId")
    return upload_id


def check_removed(answer: Any, keys: Sequence[str]) -> None:
    """Raise unless S3 says of every key that it was removed, or why not."""
    removed = {each.get("Key") for each in answer.get("Deleted", ())}
    refused = {each.get("Key") for each in answer.get("Errors", ())}
    if not removed | refused >= set(keys):
        raise BrokenAnswer("S3 does not confirm what it removed")


def key_listing(answer: Any, prefix: str) -> KeyListing:
    """The answer to a listing. Each names the bucket and says whether it is truncated, and
    most repeat the prefix and count the keys."""
    _field(answer, "Name")
    is_truncated = answer.get("IsTruncated")
    if not isinstance(is_truncated, bool) or answer.get("Prefix", prefix) != prefix:
        raise BrokenAnswer("this is not the listing that was asked for")
    objects = answer.get("Contents", ())
    folders = [_field(each, "Prefix") for each in answer.get("CommonPrefixes", ())]
    if answer.get("KeyCount", len(objects) + len(folders)) != len(objects) + len(folders):
        raise BrokenAnswer("the listing has fewer keys than it says")
    token = answer.get("NextContinuationToken")
    if is_truncated and not token:
        raise BrokenAnswer("the listing is truncated and does not say how it continues")
    return KeyListing(
        date=date_of(answer),
        keys=[_field(each, "Key") for each in objects],
        modified=[_field(each, "LastModified").timestamp() for each in objects],
        folders=folders,
        next_token=token if is_truncated else None,
    )


def date_of(answer: Any) -> float:
    """Seconds of the `Date` header; of this machine's clock if a server sends none."""
    date = answer["ResponseMetadata"].get("HTTPHeaders", {}).get("date")
    if date is None:
        return float(int(time.time()))
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError as exc:
        raise BrokenAnswer(f"{date!r} is no date") from exc


def _range_of(answer: Any, body: bytes, first: int, last: int | None) -> bytes:
    """The bytes that were asked for. A server may ignore `Range` and send the whole object."""
    if answer["ResponseMetadata"].get("HTTPStatusCode") != 206:
        return body[first:] if last is None else body[first : last + 1]
    if not answer.get("ContentRange", f"bytes {first}-").startswith(f"bytes {first}-"):
        raise BrokenAnswer("the answer has other bytes than were asked for")
    return body


def _field(answer: Any, name: str) -> Any:
    value = answer.get(name)
    if value is None:
        raise BrokenAnswer(f"the answer has no {name}")
    return value
