"""An S3 server for tests: by URL if there is one, or MinIO by Docker, or moto from a wheel.

`s3_server()` is an ordinary context manager, for benchmarks too. moto checks a condition
and then writes, without a lock, so its application is wrapped here: PUT, POST and DELETE run
one at a time. It runs as a process of its own, so that several processes share it.

    python -m tests.services.s3 --port 9000     a server to play with
"""

from __future__ import annotations

import argparse
import atexit
import io
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.services import PATIENCE, Unavailable, give_up, given_url, has_docker

ROOT = Path(__file__).parents[2]


class S3Server(NamedTuple):
    """The address of a server, and its credentials."""

    endpoint_url: str | None
    access_key: str
    secret_key: str
    region: str
    bucket: str
    prefix: str = ""
    pid: int | None = None
    """The process, if the tests started it."""

    def client(self) -> Any:
        from botocore.config import Config

        return _session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                s3={"addressing_style": "path"},
                max_pool_connections=32,
                request_checksum_calculation="when_required",
            ),
        )

    def url(self, prefix: str | None = None, **options: object) -> str:
        """A store's URL. Unless a prefix is given, it has one of its own, so that tests do not
        meet."""
        prefix = secrets.token_hex(8) if prefix is None else prefix
        given = {
            "endpoint_url": self.endpoint_url,
            "region": self.region,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "path_style": "true",
            "timeout": PATIENCE,
            **options,
        }
        query = urlencode({name: str(value) for name, value in given.items() if value})
        return f"s3://{self.bucket}/{self.prefix}{prefix}?{query}"


@cache
def _session() -> Any:
    """Shared by all clients, as each would read the description of S3, for half a second."""
    import boto3

    return boto3.session.Session()


@contextmanager
def s3_server(*, conditions: bool = True) -> Iterator[S3Server]:
    """A server with an empty place; raises `Unavailable`, with the reason, if there is none.

    `conditions=False`: a server that ignores If-Match and If-None-Match.
    """
    url = given_url("s3")
    if url and conditions:
        yield _given(url)
        return
    if conditions and has_docker():
        with _minio() as server:
            yield server
        return
    with moto_server(conditions=conditions) as server:
        yield server


@cache
def shared(*, conditions: bool = True) -> S3Server:
    """A server that all tests of this process share; it ends with the process.

    Skips the test that asks, with the reason, if there is none.
    """
    server = ExitStack()
    try:
        found = server.enter_context(s3_server(conditions=conditions))
    except Unavailable as exc:
        give_up("s3", exc)
    atexit.register(server.close)
    if conditions and found.endpoint_url is not None:
        _probe_once(found.endpoint_url)
    return found


def _probe_once(endpoint_url: str) -> None:
    """Have stores of this process trust what the first of them found out about the server: an
    opening costs 37 requests, and hundreds of tests open stores. Those that look at the opening
    pass a client in, or have a server of their own."""
    from streamstores.backends._s3.bucket import ServerTraits
    from streamstores.backends._s3.server_probe import ServerProbe

    run, known = ServerProbe.run, list[ServerTraits]()

    async def run_once(probe: ServerProbe) -> ServerTraits:
        bucket = probe._bucket
        if bucket._options.endpoint_url != endpoint_url or not bucket._owns_client:
            return await run(probe)
        if not known:
            known.append(await run(probe))
        await bucket.get(probe._key)  # it is there, and what time it has
        return known[0]

    ServerProbe.run = run_once  # type: ignore[method-assign]


def _given(url: str) -> S3Server:
    parts = urlsplit(url)
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    prefix = parts.path.lstrip("/")
    return S3Server(
        options.get("endpoint_url"),
        options.get("access_key") or os.environ.get("AWS_ACCESS_KEY_ID", ""),
        options.get("secret_key") or os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        options.get("region", "us-east-1"),
        parts.netloc,
        f"{prefix.rstrip('/')}/" if prefix else "",
    )


@contextmanager
def _minio() -> Iterator[S3Server]:
    from testcontainers.community.minio import MinioContainer

    with MinioContainer() as container:
        config = container.get_config()
        server = S3Server(
            f"http://{config['endpoint']}",
            config["access_key"],
            config["secret_key"],
            "us-east-1",
            "streams",
        )
        make_bucket(server)
        yield server


def _requires_moto() -> None:
    if find_spec("moto") is None or find_spec("flask") is None:
        raise Unavailable("moto[server] is not installed")


@contextmanager
def moto_server(*, conditions: bool = True) -> Iterator[S3Server]:
    """moto as a child process, without any state on disk."""
    _requires_moto()
    command = [sys.executable, "-m", "tests.services.s3"]
    if not conditions:
        command.append("--ignore-conditions")
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        # The child chooses the port: one that was free a moment ago may be taken by now.
        endpoint = process.stdout.readline().decode().strip()
        if not endpoint:
            raise Unavailable("moto[server] did not start")
        server = S3Server(endpoint, "key", "secret", "us-east-1", "streams", pid=process.pid)
        make_bucket(server)
        yield server
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


def make_bucket(server: S3Server) -> None:
    client = server.client()
    try:
        client.create_bucket(Bucket=server.bucket)
    finally:
        client.close()


Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def one_change_at_a_time(app: App) -> App:
    """What real servers do: the check of a condition and the write are one step."""
    lock = threading.Lock()

    def locked(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in {"PUT", "POST", "DELETE"}:
            return app(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        with lock:
            return app(environ, start_response)

    return locked


def without_conditions(app: App) -> App:
    """As a server that is too old for conditional writes."""

    def deaf(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        for header in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
            environ.pop(header, None)
        return app(environ, start_response)

    return deaf


class _Lines:
    """The lines of a connection, and whether it has ended before the last."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.has_ended = False

    def readline(self, size: int = -1) -> bytes:
        line: bytes = self._file.readline(size)
        self.has_ended = not line
        return line


def main() -> None:
    """Serve until killed; the first line of the output is the endpoint."""
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class KeepAlive(MotoRequestHandler):
        protocol_version = "HTTP/1.1"  # half the time of a connection for each request

        def parse_request(self) -> bool:
            # Python's parser takes the end of a connection for the end of the headers, and a
            # PUT that was cut there would write an empty object without its condition.
            rfile, lines = self.rfile, _Lines(self.rfile)
            self.rfile = lines  # type: ignore[assignment]  # it has readline
            try:
                return super().parse_request() and not lines.has_ended
            finally:
                self.rfile = rfile

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="by default a free one")
    parser.add_argument("--ignore-conditions", action="store_true")
    arguments = parser.parse_args()
    app: App = one_change_at_a_time(create_backend_app("s3"))
    if arguments.ignore_conditions:
        app = without_conditions(app)
    server = make_server(
        "127.0.0.1",
        arguments.port,
        app,  # type: ignore[arg-type]  # a WSGI application, though not typed as one
        threaded=True,
        request_handler=KeepAlive,
    )
    print(f"http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
