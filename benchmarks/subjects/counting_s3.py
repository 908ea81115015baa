"""A boto3 client that counts what it sends: requests are what S3 costs."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import boto3
from botocore.config import Config

_CONNECTION = ("endpoint_url", "region", "access_key", "secret_key", "path_style")


class Requests:
    """The methods of all requests sent so far, retries too; filled from many threads."""

    def __init__(self) -> None:
        self._methods: list[str] = []

    def note(self, request: Any, **_: Any) -> None:
        self._methods.append(request.method)

    @property
    def writes(self) -> int:
        """PUT, POST and LIST cost the same; these stores list only when they open or sweep."""
        return sum(method in {"PUT", "POST"} for method in self._methods)

    @property
    def reads(self) -> int:
        return sum(method in {"GET", "HEAD"} for method in self._methods)


def connect(url: str) -> tuple[str, Any, Requests]:
    """The URL without the options of the connection, a client made of them, its requests."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    connection = {name: options.pop(name, None) for name in _CONNECTION}
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=connection["endpoint_url"],
        region_name=connection["region"],
        aws_access_key_id=connection["access_key"],
        aws_secret_access_key=connection["secret_key"],
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=32),
    )
    requests = Requests()
    client.meta.events.register("before-send.s3", requests.note)
    return parts._replace(query=urlencode(options)).geturl(), client, requests
