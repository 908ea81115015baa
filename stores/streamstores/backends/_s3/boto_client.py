"""Making a boto3 client."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3  # type: ignore[import-untyped]  # it ships no types
import botocore.session  # type: ignore[import-untyped]  # nor does it
from botocore.config import Config  # type: ignore[import-untyped]

from streamstores.backends._s3.s3_options import S3Options

_calls = threading.local()

TRY_SHARE = 0.4
"""The part of a call's timeout for which one try may hear nothing, so that there are two."""


def make_client(options: S3Options) -> Any:
    """A client for the server and the account of the options. It reads files, for a tenth of
    a second, but makes no request.

    It never retries by itself, because it does not say which of its tries got no answer. It
    adds no checksums, which boto3 does since 1.36: not all servers take them, and blocks have
    their own.
    """
    style = {"addressing_style": "path"} if options.path_style else {}
    config = Config(
        connect_timeout=options.timeout * TRY_SHARE,
        read_timeout=options.timeout * TRY_SHARE,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=options.max_connections,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        s3=style,
    )
    return _session().client(
        "s3",
        endpoint_url=options.endpoint_url,
        region_name=options.region,
        aws_access_key_id=options.access_key,
        aws_secret_access_key=options.secret_key,
        aws_session_token=options.session_token,
        config=config,
    )


def expect_no_continue(client: Any) -> None:
    """Make the calls inside `our_call` send no `Expect: 100-continue`, which boto3 (1.44) adds
    to every write. If the connection ends inside the answer to that, botocore reads the end
    of the file for ever. Other users of a client that was passed in keep theirs.
    """
    events = getattr(getattr(client, "meta", None), "events", None)
    if events is not None:
        events.register_last("before-call.s3", _drop_expect, unique_id="streamstores-expect")


@contextmanager
def our_call() -> Generator[None, None, None]:
    """The calls of this thread that are made by a store."""
    _calls.is_ours = True
    try:
        yield
    finally:
        _calls.is_ours = False


def _drop_expect(params: dict[str, Any], **_: Any) -> None:
    if getattr(_calls, "is_ours", False):
        params["headers"].pop("Expect", None)


def _session() -> Any:
    """A session of its own for each client. All share the description of S3, which takes half
    a second to read."""
    session: Any = botocore.session.Session()
    session.register_component("data_loader", _loader())
    return boto3.Session(botocore_session=session)


@cache
def _loader() -> Any:
    session: Any = botocore.session.Session()
    return session.get_component("data_loader")
