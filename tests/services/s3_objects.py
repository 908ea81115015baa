"""The objects of a scripted S3 server, and what requests do to them. No socket is used here.

`Quirks` are the ways in which real servers differ: which form of an ETag a condition takes,
whether conditions are kept at all, whether their check and the write are one step.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


class Request(NamedTuple):
    method: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type" in self.query

    @property
    def prefix(self) -> str:
        return self.query.get("prefix", "")


class Response(NamedTuple):
    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


@dataclass
class Quirks:
    """How this server differs from AWS S3."""

    etag_forms: frozenset[str] = frozenset({"quoted", "unquoted"})
    """The forms of a right ETag that `If-Match` accepts."""
    keeps_if_none_match: bool = True
    keeps_if_match: bool = True
    deletes_under_condition: bool = True
    """Otherwise a DELETE ignores `If-Match`."""
    refuses_conditional_delete: bool = False
    """Whether a DELETE with `If-Match` is answered with 501."""
    unlocked_seconds: float | None = None
    """If set, a condition is checked and this much later the object is written, without a
    lock in between."""
    compares_on_get: bool = True
    """Otherwise a GET ignores `If-None-Match`."""
    lists_after_seconds: float = 0.0
    """When an object appears in listings."""
    page_keys: int = 1000
    clock_ahead_seconds: float = 0.0
    clock_stands_at: float | None = None
    shuffles_listings: bool = False


class StoredObject(NamedTuple):
    body: bytes
    etag: str
    """Without quotes."""
    modified: float


@dataclass
class Objects:
    """A bucket."""

    quirks: Quirks = field(default_factory=Quirks)
    found: dict[str, StoredObject] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> float:
        if self.quirks.clock_stands_at is not None:
            return self.quirks.clock_stands_at
        return time.time() + self.quirks.clock_ahead_seconds

    def handle(self, request: Request) -> Response:
        """Apply one request."""
        query = request.query
        if request.method == "GET":
            return self._list(request) if request.is_listing else self._get(request)
        if request.method == "POST" and "delete" in query:
            return self._delete_all(request)
        if "uploads" in query or "uploadId" in query:
            return self._change_upload(request)
        change = self._put if request.method == "PUT" else self._delete
        if self.quirks.unlocked_seconds is None:
            with self.lock:
                return self._refusal(request) or change(request)
        refusal = self._refusal(request)
        time.sleep(self.quirks.unlocked_seconds)
        return refusal or change(request)

    def put(self, key: str, body: bytes) -> StoredObject:
        etag = hashlib.md5(body).hexdigest()
        self.found[key] = StoredObject(body, etag, self.now())
        return self.found[key]

    def _refusal(self, request: Request) -> Response | None:
        """The answer if the condition of a PUT or a DELETE does not hold."""
        here = self.found.get(request.key)
        wanted = request.headers.get("if-match")
        if request.method == "DELETE":
            if wanted and self.quirks.refuses_conditional_delete:
                return error(501, "NotImplemented")
            if not self.quirks.deletes_under_condition:
                wanted = None
        elif not self.quirks.keeps_if_match:
            wanted = None
        if request.headers.get("if-none-match") == "*":
            keeps = self.quirks.keeps_if_none_match
            return error(412, "PreconditionFailed") if here and keeps else None
        if wanted is None:
            return None
        if here is None:
            return error(404, "NoSuchKey")
        return None if self._matches(wanted, here) else error(412, "PreconditionFailed")

    def _matches(self, wanted: str, here: StoredObject) -> bool:
        form = "quoted" if wanted.startswith('"') else "unquoted"
        return form in self.quirks.etag_forms and wanted.strip('"') == here.etag

    def _put(self, request: Request) -> Response:
        return Response(200, {"ETag": f'"{self.put(request.key, request.body).etag}"'})

    def _delete(self, request: Request) -> Response:
        self.found.pop(request.key, None)
        return Response(204)

    def _get(self, request: Request) -> Response:
        here = self.found.get(request.key)
        if here is None:
            return error(404, "NoSuchKey")
        headers = {
            "ETag": f'"{here.etag}"',
            "Last-Modified": formatdate(here.modified, usegmt=True),
        }
        same = request.headers.get("if-none-match", "").strip('"') == here.etag
        if same and self.quirks.compares_on_get:
            return Response(304, headers)
        span = request.headers.get("range")
        if span is None:
            return Response(200, headers, here.body)
        first, _, last = span.removeprefix("bytes=").partition("-")
        body = here.body[int(first) : int(last) + 1 if last else None]
        end = int(first) + len(body) - 1
        headers["Content-Range"] = f"bytes {first}-{end}/{len(here.body)}"
        return Response(206, headers, body)

    def _list(self, request: Request) -> Response:
        prefix, delimiter = request.prefix, request.query.get("delimiter", "")
        after = request.query.get("continuation-token", "")
        limit = min(int(request.query.get("max-keys", "1000")), self.quirks.page_keys)
        oldest = self.now() - self.quirks.lists_after_seconds
        listed = [
            key
            for key, each in self.found.items()
            if key.startswith(prefix) and each.modified <= oldest
        ]
        names = sorted({_folded(key, prefix, delimiter) for key in listed})
        names = [name for name in names if name > after]
        page, rest = names[:limit], names[limit:]
        if self.quirks.shuffles_listings:
            page = page[::-1]
        return listing(
            prefix,
            [(name, self.found[name]) for name in page if name in self.found],
            [name for name in page if name not in self.found],
            next_token=page[-1] if rest and page else None,
        )

    def _delete_all(self, request: Request) -> Response:
        tree = ElementTree.fromstring(request.body)
        keys = [each.text or "" for each in tree.iter() if each.tag.endswith("Key")]
        with self.lock:
            for key in keys:
                self.found.pop(key, None)
        done = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return _xml(f"<DeleteResult>{done}</DeleteResult>")

    def _change_upload(self, request: Request) -> Response:
        upload_id = request.query.get("uploadId") or secrets.token_hex(8)
        if request.method == "PUT":
            self.uploads[upload_id][int(request.query["partNumber"])] = request.body
            return Response(200, {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})
        if request.method == "DELETE":
            self.uploads.pop(upload_id, None)
            return Response(204)
        key = escape(request.key)
        if "uploads" in request.query:
            self.uploads[upload_id] = {}
            return _xml(
                "<InitiateMultipartUploadResult><Bucket>streams</Bucket>"
                f"<Key>{key}</Key><UploadId>{upload_id}</UploadId></InitiateMultipartUploadResult>"
            )
        parts = self.uploads.pop(upload_id)
        etag = self.put(request.key, b"".join(parts[each] for each in sorted(parts))).etag
        return _xml(
            f"<CompleteMultipartUploadResult><Bucket>streams</Bucket><Key>{key}</Key>"
            f"<ETag>{etag}</ETag></CompleteMultipartUploadResult>"
        )


def error(status: int, code: str) -> Response:
    body = f"<Error><Code>{code}</Code><Message>the script says so</Message></Error>"
    return Response(status, {"Content-Type": "application/xml"}, (XML + body).encode())


def listing(
    prefix: str,
    found: Iterable[tuple[str, StoredObject]] = (),
    folders: Iterable[str] = (),
    *,
    next_token: str | None = None,
    is_truncated: bool | None = None,
) -> Response:
    """An answer to ListObjectsV2, right or wrong."""
    contents = "".join(
        f"<Contents><Key>{quote(key)}</Key><LastModified>{_iso(each.modified)}</LastModified>"
        f"<ETag>&quot;{each.etag}&quot;</ETag><Size>{len(each.body)}</Size></Contents>"
        for key, each in found
    )
    prefixes = "".join(
        f"<CommonPrefixes><Prefix>{quote(each)}</Prefix></CommonPrefixes>" for each in folders
    )
    truncated = next_token is not None if is_truncated is None else is_truncated
    token = (
        ""
        if next_token is None
        else f"<NextContinuationToken>{escape(next_token)}</NextContinuationToken>"
    )
    count = contents.count("<Key>") + prefixes.count("<Prefix>")
    return _xml(
        f"<ListBucketResult><Name>streams</Name><Prefix>{quote(prefix)}</Prefix>"
        f"<EncodingType>url</EncodingType><KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys>"
        f"<IsTruncated>{str(truncated).lower()}</IsTruncated>{token}{contents}{prefixes}"
        "</ListBucketResult>"
    )


def _folded(key: str, prefix: str, delimiter: str) -> str:
    """The key, or the folder that stands for it in a listing by folder."""
    if not delimiter or delimiter not in key[len(prefix) :]:
        return key
    return key[: key.index(delimiter, len(prefix)) + 1]


def _xml(text: str) -> Response:
    return Response(200, {"Content-Type": "application/xml"}, (XML + text).encode())


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


Wanted = Callable[[Request], bool]


def put_of(part: str) -> Wanted:
    """A PUT of a key that contains `part`."""
    return lambda request: request.method == "PUT" and part in request.key


def get_of(part: str) -> Wanted:
    return lambda request: (
        request.method == "GET" and not request.is_listing and part in request.key
    )


def listing_of(part: str = "") -> Wanted:
    return lambda request: request.is_listing and part in request.prefix


def anything(request: Request) -> bool:
    return True
