"""The command `doctor`: each finding is provoked on a real file or server."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

from streamstores import cli, open_store
from streamstores.cli.doctor.s3 import clock_findings
from streamstores.cli.doctor.sqlite import file_system_of
from tests.cli.processes import run, with_small_files
from tests.services import Unavailable, free_port
from tests.services import postgres as postgres_servers
from tests.services import redis as redis_servers
from tests.services import s3 as s3_servers
from tests.services.postgres import execute

COMMAND = [sys.executable, "-c", "from streamstores.cli import main; main()"]


def examine(url: str) -> tuple[int, dict[str, str]]:
    """The exit code, and the severity of each finding by its code."""
    result = CliRunner().invoke(
        cli.build_app(), ["doctor", "--json", "--store", url], catch_exceptions=False
    )
    findings = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(finding["meaning"] and finding["advice"] for finding in findings)
    return result.exit_code, {finding["code"]: finding["severity"] for finding in findings}


def stream_count(url: str) -> int:
    async def count() -> int:
        async with open_store(url) as store:
            return len([info async for info in store.list()])

    return asyncio.run(count())


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "streams.db"


class TestSQLite:
    def test_a_new_file_is_noted_and_nothing_is_left_in_it(self, path):
        code, findings = examine(f"sqlite:///{path}")
        assert (code, findings["sqlite.new_file"]) == (0, "note")
        assert stream_count(f"sqlite:///{path}") == 0

    def test_a_damaged_file_is_an_error(self, path):
        url = f"sqlite:///{path}"

        async def fill():
            async with open_store(url) as store:
                for number in range(50):
                    await store.create(f"s/{number}", b"x" * 3000)

        asyncio.run(fill())
        content = bytearray(path.read_bytes())
        for page in range(3, len(content) // 4096):
            content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
        path.write_bytes(content)
        code, findings = examine(url)
        assert (code, findings["sqlite.damaged"]) == (1, "error")

    def test_a_newer_schema_is_an_error(self, path):
        stream_count(f"sqlite:///{path}")
        connection = sqlite3.connect(path)
        connection.execute("UPDATE streamstores_schema SET version = 99")
        connection.commit()
        connection.close()
        code, findings = examine(f"sqlite:///{path}")
        assert (code, findings["store.unusable"]) == (1, "error")

    def test_a_file_that_all_users_may_read_is_noted(self, path):
        stream_count(f"sqlite:///{path}")
        path.chmod(0o644)
        assert examine(f"sqlite:///{path}")[1]["sqlite.readable_by_all"] == "note"
        path.chmod(0o600)
        assert "sqlite.readable_by_all" not in examine(f"sqlite:///{path}")[1]

    def test_a_file_in_memory_is_a_warning(self):
        if file_system_of("/dev/shm", Path("/proc/self/mounts").read_text()) != "tmpfs":
            pytest.skip("/dev/shm is no tmpfs here")
        path = Path(f"/dev/shm/streamstores-{secrets.token_hex(6)}.db")
        try:
            assert examine(f"sqlite:///{path}")[1]["sqlite.memory"] == "warning"
        finally:
            for each in path.parent.glob(f"{path.name}*"):
                each.unlink()

    def test_a_folder_that_does_not_exist_is_an_error(self, tmp_path):
        code, findings = examine(f"sqlite:///{tmp_path}/missing/streams.db")
        assert (code, findings["store.unusable"]) == (1, "error")

    def test_a_full_disk_is_an_error(self, path):
        ended = run("doctor", "--json", url=f"sqlite:///{path}", preexec_fn=with_small_files(0))
        assert ended.returncode == 1
        found = {each["code"]: each for each in map(json.loads, ended.stdout.splitlines())}
        assert found["store.unusable"]["severity"] == "error"

    def test_a_file_system_is_that_of_the_longest_mount_point(self):
        mounts = (
            "/dev/sda / ext4 rw 0 0\nhost:/a /srv nfs4 rw 0 0\nhost:/b /a\\040b cifs rw 0 0\n"
        )
        assert file_system_of("/srv/streams", mounts) == "nfs4"
        assert file_system_of("/srv2", mounts) == "ext4"
        assert file_system_of("/a b", mounts) == "cifs"


@contextmanager
def redis_server(*arguments: str) -> Iterator[redis_servers.Server]:
    try:
        with redis_servers.own_server(redis_servers.VALKEY, *arguments) as server:
            yield server
    except Unavailable as exc:
        pytest.skip(str(exc))


class TestRedis:
    def test_a_server_that_keeps_everything_has_no_findings(self):
        with redis_server("--appendonly", "yes") as server:
            assert examine(server.url) == (0, {})
            assert stream_count(server.url) == 0

    def test_a_server_that_is_set_up_as_a_cache(self):
        with redis_server("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru") as server:
            code, findings = examine(server.url)
        expected = {"redis.eviction": "error", "redis.no_persistence": "warning"}
        assert (code, findings) == (1, expected)

    def test_eviction_of_streams_that_expire_is_a_warning(self):
        arguments = ("--appendonly", "yes", "--maxmemory-policy", "volatile-lru")
        with redis_server(*arguments) as server:
            assert examine(server.url) == (0, {"redis.eviction": "warning"})

    def test_snapshots_alone_are_a_warning(self):
        with redis_server("--save", "900 1") as server:
            assert examine(server.url) == (0, {"redis.no_append_only_file": "warning"})

    def test_memory_that_is_nearly_used_up(self):
        with redis_server("--appendonly", "yes") as server:
            server.ask("SET", "other", "x" * 3_000_000)
            info = server.ask("INFO", "memory").decode()
            used = int(info.partition("used_memory:")[2].partition("\r")[0])
            server.ask("CONFIG", "SET", "maxmemory", used + 200_000)
            assert examine(server.url)[1]["redis.little_memory"] == "warning"

    def test_a_replica_is_an_error_and_its_master_may_lose_appends(self):
        with redis_server("--appendonly", "yes") as master, redis_server() as replica:
            replica.ask("REPLICAOF", "127.0.0.1", master.port)
            redis_servers.wait_until(
                lambda: b"state=online" in master.ask("INFO", "replication"), "the replica"
            )
            assert examine(master.url)[1]["redis.failover"] == "warning"
            master.ask("CONFIG", "SET", "min-replicas-to-write", 1)
            assert "redis.failover" not in examine(master.url)[1]
            code, findings = examine(replica.url)
        assert (code, findings["redis.replica"]) == (1, "error")
        assert findings["store.unusable"] == "error"

    def test_a_user_without_rights(self):
        with redis_server("--appendonly", "yes") as server:
            server.ask("ACL", "SETUSER", "app", "on", ">pw", "~*", "&*", "+@all", "-info",
                       "-client|kill")  # fmt: skip
            url = server.url.replace("//", "//app:pw@")
            code, findings = examine(url)
            assert (code, findings) == (
                0,
                {"redis.no_client_kill": "warning", "redis.not_examined": "note"},
            )
            server.ask("ACL", "SETUSER", "app", "-@scripting")
            assert examine(url)[1]["store.unusable"] == "error"

    def test_a_wrong_password_is_one_error_without_the_password(self):
        with redis_server("--requirepass", "right") as server:
            url = server.url.replace("//", "//:wrong-secret@")
            result = subprocess.run(
                [*COMMAND, "doctor", "--store", url],
                capture_output=True,
                text=True,
                check=False,
            )
        assert result.returncode == 1
        assert "store.unusable" in result.stdout
        assert "wrong-secret" not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr

    def test_a_server_that_is_down_is_one_error(self):
        url = f"redis://127.0.0.1:{free_port()}"
        assert examine(url) == (1, {"store.unusable": "error"})

    def test_every_master_of_a_cluster_is_examined(self):
        url = redis_servers.shared("cluster")
        code, findings = examine(url)
        assert (code, findings) == (0, {"redis.no_persistence": "warning"})


@pytest.fixture
def postgres_url() -> Iterator[str]:
    with postgres_servers.fresh_schema(postgres_servers.shared()) as url:
        yield url


def schema_of(url: str) -> str:
    return url.rpartition("schema=")[2]


class TestPostgres:
    def test_a_server_with_its_defaults_has_no_findings(self, postgres_url):
        assert examine(postgres_url) == (0, {})
        assert stream_count(postgres_url) == 0

    def test_settings_that_lose_data(self):
        try:
            with postgres_servers.own_server() as server:
                execute(
                    server.url,
                    "ALTER SYSTEM SET fsync = off",
                    "ALTER SYSTEM SET full_page_writes = off",
                    "ALTER SYSTEM SET synchronous_commit = off",
                    "ALTER SYSTEM SET autovacuum = off",
                    "SELECT pg_reload_conf()",
                )
                server.stop()
                server.start()
                code, findings = examine(server.url)
                with_less = examine(f"{server.url}?durability=process")[1]
        except Unavailable as exc:
            pytest.skip(str(exc))
        assert (code, findings) == (
            1,
            {
                "postgres.fsync": "error",
                "postgres.full_page_writes": "error",
                "postgres.synchronous_commit": "warning",
                "postgres.autovacuum": "warning",
            },
        )
        assert "postgres.synchronous_commit" not in with_less

    def test_notices_do_not_arrive_through_a_pooler_in_transaction_mode(self, postgres_url):
        try:
            with postgres_servers.pgbouncer(postgres_servers.shared()) as url:
                pooled = f"{url}?schema={schema_of(postgres_url)}&statement_cache_size=0"
                assert examine(pooled) == (0, {"postgres.notices": "warning"})
                assert examine(f"{pooled}&notify=false") == (0, {})
        except Unavailable as exc:
            pytest.skip(str(exc))

    def test_a_user_without_rights_on_the_tables(self, postgres_url):
        stream_count(postgres_url)
        with postgres_servers.limited_user(postgres_url, "SELECT") as url:
            expected = {"postgres.rights": "error", "store.unusable": "error"}
            assert examine(url) == (1, expected)

    def test_a_wrong_password_is_one_error(self, postgres_url):
        netloc = urlsplit(postgres_url).netloc.rpartition("@")[2]
        url = urlsplit(postgres_url)._replace(netloc=f"postgres:no@{netloc}").geturl()
        assert examine(url) == (1, {"store.unusable": "error"})

    def test_a_newer_schema_is_noted(self, postgres_url):
        stream_count(postgres_url)
        table = f"{schema_of(postgres_url)}.streamstores_migrations"
        execute(postgres_url, f"INSERT INTO {table} (number, file) VALUES (99, 'x')")
        assert examine(postgres_url) == (0, {"postgres.newer_schema": "note"})

    def test_a_table_without_autovacuum_and_with_dead_rows(self, postgres_url):
        stream_count(postgres_url)
        table = f"{schema_of(postgres_url)}.streamstores_records"
        execute(
            postgres_url,
            f"ALTER TABLE {table} SET (autovacuum_enabled = false)",
            f"INSERT INTO {table} SELECT 1, n, 'x' FROM generate_series(1, 60000) AS n",
            f"DELETE FROM {table}",
            "SELECT pg_stat_force_next_flush()",
        )
        code, findings = examine(postgres_url)
        assert code == 0
        assert findings == {"postgres.autovacuum": "warning", "postgres.bloat": "warning"}


class TestS3:
    def test_a_server_without_conditional_writes_is_an_error(self):
        code, findings = examine(s3_servers.shared(conditions=False).url())
        assert (code, findings["store.unusable"]) == (1, "error")

    def test_a_bucket_without_rules_is_noted_and_nothing_is_left(self):
        server = s3_servers.shared()
        url = server.url("doctor-leaves-nothing")
        assert examine(url) == (0, {"s3.leftovers": "note"})
        assert stream_count(url) == 0

    def test_a_rule_that_removes_objects_by_their_age_is_an_error(self):
        server = s3_servers.shared()
        client = server.client()
        rule = {
            "ID": "tidy",
            "Status": "Enabled",
            "Filter": {"Prefix": f"{server.prefix}tidied/"},
            "Expiration": {"Days": 1},
        }
        client.put_bucket_lifecycle_configuration(
            Bucket=server.bucket, LifecycleConfiguration={"Rules": [rule]}
        )
        try:
            code, findings = examine(server.url("tidied/streams"))
            assert (code, findings["s3.lifecycle_removes"]) == (1, "error")
            assert "s3.lifecycle_removes" not in examine(server.url("elsewhere"))[1]
        finally:
            client.delete_bucket_lifecycle(Bucket=server.bucket)
            client.close()

    def test_a_bucket_that_keeps_all_versions_is_a_warning(self):
        server = s3_servers.shared()
        client = server.client()
        bucket = f"versions-{secrets.token_hex(6)}"
        client.create_bucket(Bucket=bucket)
        client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
        )
        client.close()
        url = server._replace(bucket=bucket).url()
        assert examine(url)[1]["s3.versions"] == "warning"

    def test_a_clock_that_is_apart_is_a_warning(self):
        now = 1_700_000_000
        assert clock_findings(formatdate(now, usegmt=True), now + 5) == []
        (finding,) = clock_findings(formatdate(now, usegmt=True), now - 600)
        assert (finding.code, "600 seconds behind" in finding.meaning) == ("s3.clock", True)
        (finding,) = clock_findings("", now)
        assert finding.code == "s3.no_clock"


UNREACHABLE = [
    "redis+cluster://127.0.0.1:{port}",
    "redis+sentinel://127.0.0.1:{port}/streams",
    "postgresql://u:p@127.0.0.1:{port}/d",
    "s3://b/p?endpoint_url=http://127.0.0.1:{port}&region=r&access_key=a&secret_key=b&timeout=1",
    "s3://b/p?endpoint_url=nonsense&region=r&access_key=a&secret_key=b&timeout=1",
]


@pytest.mark.parametrize("url", UNREACHABLE)
def test_a_store_that_cannot_be_reached_is_one_error(url):
    assert examine(url.format(port=free_port())) == (1, {"store.unusable": "error"})


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{port}", *UNREACHABLE[2:4]])
def test_ctrl_c_ends_the_examination_of_a_silent_server_with_one_line(url):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        process = subprocess.Popen(
            [*COMMAND, "doctor", "--store", url.format(port=port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)  # the command is in the middle of its first request
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (130, "", "interrupted\n")


def test_a_driver_that_the_store_is_not_tested_with_is_a_warning(path, tmp_path, monkeypatch):
    """Installed where an import finds it first, as far as its metadata goes."""
    versions = {"0.19.9": "warning", "0.20": None, "0.99.1": None, "1.0": "warning"}
    for version, expected in versions.items():
        folder = tmp_path / version / f"aiosqlite-{version}.dist-info"
        folder.mkdir(parents=True)
        text = f"Metadata-Version: 2.1\nName: aiosqlite\nVersion: {version}\n"
        (folder / "METADATA").write_text(text)
        with monkeypatch.context() as patched:
            patched.syspath_prepend(tmp_path / version)
            findings = examine(f"sqlite:///{path}")[1]
        assert findings.get("driver.version") == expected, version


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "sqlite:///a.db?colour=red"])
def test_a_url_that_cannot_be_understood_exits_with_2(url):
    assert examine(url) == (2, {})


def test_findings_for_people_say_what_to_do(path):
    result = CliRunner().invoke(cli.build_app(), ["doctor", "--store", f"sqlite:///{path}"])
    assert "note     sqlite.new_file" in result.stdout
    assert "-> check the path" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("0 of them errors")
