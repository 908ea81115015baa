"""The server that stands for S3: what a cut connection may not do on a real one."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import boto3
import pytest

from tests.services import given_url, s3

pytestmark = pytest.mark.skipif(
    given_url("s3") is not None, reason="the server was given by URL, and is not the tests' own"
)

HEAD = (
    "PUT /{bucket}/{key} HTTP/1.1\r\nHost: {host}\r\nx-amz-date: 20260101T000000Z\r\n"
    "Authorization: AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=abc\r\n"
)


@pytest.mark.parametrize(
    ("rest", "is_stored"),
    [
        ("Content-Length: 4\r\nIf-None-Match: *\r\n\r\nbody", True),
        ("Content-Length: 4\r\nIf-None-Match: *\r\n\r\nbo", False),
        ("Content-Length: 4\r\nIf-None-Match: *\r\n", False),
        ("Content-Le", False),
        ("", False),
    ],
)
def test_a_request_that_is_cut_writes_nothing(rest: str, is_stored: bool) -> None:
    server = s3.shared()
    place = urlsplit(server.endpoint_url)
    key = server.url().partition("?")[0].rpartition("/")[2]
    head = HEAD.format(bucket=server.bucket, key=key, host=place.netloc)
    with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
        connection.sendall((head + rest).encode())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):  # to the end: then the request has been dealt with
            pass
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )
    found = client.list_objects_v2(Bucket=server.bucket, Prefix=key)
    client.close()
    assert bool(found.get("Contents")) is is_stored
