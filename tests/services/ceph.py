"""A real S3 server that is not AWS: Ceph RGW, in memory, on loopback.

    apt-get install --no-install-recommends radosgw ceph-osd ceph-mon
    python -m tests.services.ceph -- pytest tests/s3 tests/contract/test_s3.py

starts a monitor, one object store in memory and the gateway in a temporary folder, runs the
command with the server's URL in `STREAMSTORES_TEST_S3`, and ends with its exit status. Without
a command it prints the URL and serves until it is interrupted. Needs root, as the packages'
programs expect it. On Debian 12 (Ceph 16.2) installing takes about half a minute, starting ten
seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.services import Unavailable, free_port
from tests.services.s3 import S3Server, make_bucket

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool", "radosgw")
START_SECONDS = 120.0

# One monitor and one object store without replicas, which Ceph warns of, and short rounds.
CONFIG = """
[global]
fsid = {fsid}
mon host = {monitor}
public network = 127.0.0.0/8
keyring = {folder}/keyring
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
pid file =
run dir = {folder}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
mon data avail crit = 1
mon data avail warn = 1
mon osd min up ratio = 0
paxos propose interval = 0.02
paxos min wait = 0.01
osd objectstore = memstore
memstore device bytes = 2147483648
osd class load list = *
osd class default list = *
ms bind ipv6 = false
setuser match path =
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw data = {folder}/rgw
rgw dns name = localhost
rgw enable usage log = false
"""


class Cluster:
    """A monitor, an object store in memory, and the gateway, which may be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.monitor = f"v2:127.0.0.1:{free_port()}"
        self.fsid = str(uuid.uuid4())
        self._processes: list[subprocess.Popen[bytes]] = []
        self._config = folder / "ceph.conf"
        config = CONFIG.format(
            folder=folder, port=self.port, monitor=self.monitor, fsid=self.fsid
        )
        self._config.write_text(config)
        for name in ("mon", "osd", "rgw"):
            (folder / name).mkdir()

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [command[0], "-c", str(self._config), *command[1:]],
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )
        if done.returncode:
            raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{command[0]}.out").open("ab") as output:
            process = subprocess.Popen(
                [command[0], "-c", str(self._config), "-f", *command[1:]],
                stdout=output,
                stderr=output,
            )
        self._processes.append(process)
        return process

    def start_gateway(self) -> None:
        """Start it, and wait until it listens."""
        self._gateway = self.start("radosgw", "-n", "client.rgw")
        self.wait_until(lambda: _listens(self.port), "the gateway does not listen")

    def kill_gateway(self) -> None:
        """End it by SIGKILL, in the middle of whatever it does."""
        self._processes.remove(self._gateway)
        self._gateway.kill()
        self._gateway.wait()

    def wait_until(self, is_so: Callable[[], bool], what: str) -> None:
        give_up_at = time.monotonic() + START_SECONDS
        while not is_so():
            ended = [each.args for each in self._processes if each.poll() is not None]
            if ended or time.monotonic() > give_up_at:
                raise Unavailable(f"Ceph: {what}; ended: {ended}; see {self.folder}")
            time.sleep(0.1)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@contextlib.contextmanager
def ceph_rgw() -> Iterator[S3Server]:
    """A gateway with an empty bucket; raises `Unavailable`, with the reason, without Ceph."""
    with own_cluster() as (_, server):
        yield server


@contextlib.contextmanager
def own_cluster() -> Iterator[tuple[Cluster, S3Server]]:
    """The same, with the cluster, so that its gateway can be killed."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise Unavailable(f"not installed: {', '.join(missing)} (see {__file__})")
    folder = Path(tempfile.mkdtemp(prefix="streamstores-ceph-"))
    cluster = Cluster(folder)
    try:
        yield cluster, _started(cluster)
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _started(cluster: Cluster) -> S3Server:
    _start_monitor(cluster)
    _start_object_store(cluster)
    cluster.start_gateway()
    access_key, secret_key = "testaccess", secrets.token_hex(16)
    cluster.run(
        *("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", "test"),
        *("--display-name", "test", "--access-key", access_key, "--secret", secret_key),
    )
    endpoint = f"http://127.0.0.1:{cluster.port}"
    server = S3Server(endpoint, access_key, secret_key, "us-east-1", "streams")
    make_bucket(server)
    return server


def _start_monitor(cluster: Cluster) -> None:
    folder = cluster.folder
    keyring, map_file = str(folder / "keyring"), str(folder / "monmap")
    every = [f"{part}:allow *" for part in ("mon", "osd", "mgr", "mds")]
    rights = {
        "mon.": ["mon:allow *"],
        "client.admin": every,
        "client.rgw": every[:2],
        "osd.0": ["mon:allow profile osd", "osd:allow *"],
    }
    for number, (name, caps) in enumerate(rights.items()):
        command = ["ceph-authtool", keyring, "--gen-key", "-n", name]
        command += ["--create-keyring"] if number == 0 else []
        for cap in caps:
            command += ["--cap", *cap.split(":", 1)]
        subprocess.run(command, check=True, capture_output=True)
    subprocess.run(
        [
            *("monmaptool", "--create", "--fsid", cluster.fsid),
            *("--addv", "a", f"[{cluster.monitor}]", "--set-min-mon-release", "16", map_file),
        ],
        check=True,
        capture_output=True,
    )
    cluster.run("ceph-mon", "--mkfs", "-i", "a", "--monmap", map_file, "--keyring", keyring)
    cluster.start("ceph-mon", "-i", "a")
    cluster.wait_until(lambda: _answers(cluster), "the monitor does not answer")


def _start_object_store(cluster: Cluster) -> None:
    name = str(uuid.uuid4())
    cluster.run("ceph", "osd", "new", name, "0")
    cluster.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", name)
    cluster.start("ceph-osd", "-i", "0")
    cluster.wait_until(
        lambda: "1 up" in cluster.run("ceph", "osd", "stat"), "the object store is not up"
    )


def _answers(cluster: Cluster) -> bool:
    try:
        cluster.run("ceph", "--connect-timeout", "2", "status")
    except (Unavailable, subprocess.TimeoutExpired):
        return False
    return True


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("command", nargs="*", help="what to run against the server")
    arguments = parser.parse_args()
    begun_at = time.monotonic()
    with ceph_rgw() as server:
        url = server.url("")
        print(f"ready after {time.monotonic() - begun_at:.1f} s: {url}", flush=True)
        if not arguments.command:
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
            return 0
        environment = {**os.environ, "STREAMSTORES_TEST_S3": url}
        return subprocess.run(arguments.command, env=environment, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
