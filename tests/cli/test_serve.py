"""The command `serve`, as a process, and who may do what there."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cli.processes import content, run, start, use

PASSWORD = "correct horse battery"
ENDED = {"Stream-Closed": "true"}


@pytest.fixture
def url(tmp_path) -> str:
    url = f"sqlite:///{tmp_path}/streams.db"
    use(url, lambda store: store.create("greeting", b"hello", state="done"))
    return url


@contextlib.contextmanager
def serving(url: str, *options: str, password: str = "") -> Iterator[Any]:
    """A client of the server, which has `process` and `shown`: what it printed."""
    arguments = ("serve", "--port", "0", "--json", *options)
    with start(*arguments, url=url, env={"STREAMSTORES_PASSWORD": password}) as process:
        try:
            shown = json.loads(process.stdout.readline())
            with httpx.Client(base_url=shown["monitor"].removesuffix("/monitor/")) as client:
                client.process, client.shown = process, shown  # type: ignore[attr-defined]
                yield client
        finally:
            process.kill()


def test_the_streams_of_a_store_are_shown_and_read(url):
    with serving(url) as client:
        assert client.get("/", follow_redirects=True).status_code == 200
        [shown] = client.get("/monitor/streams").json()["streams"]
        assert shown["id"] == "greeting"
        assert client.get("/streams/greeting").content == b"hello"
        assert client.shown["store"].startswith("sqlite:///")
        assert client.shown["clients"] == "may only read"


def test_it_says_where_everything_is(url):
    with start("serve", "--port", "0", url=url) as process:
        lines = [process.stdout.readline().decode() for _ in range(5)]
        process.kill()
    assert [line.split(":")[0] for line in lines] == [
        *("monitor", "streams", "store", "clients", "password")
    ]
    assert lines[1].rstrip().endswith("/streams/<id>")


def test_without_starlette_it_says_which_extra_is_missing(url):
    program = (
        "import sys; sys.modules['starlette'] = None; from streamstores.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "serve", "--store", url, "--port", "0"]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert ended.returncode == 2
    assert b'pip install "streamstores[http]"' in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_nothing_is_changed_unless_the_server_is_writable(url):
    with serving(url) as client:
        for method in ("PUT", "POST", "DELETE"):
            assert client.request(method, "/streams/greeting").status_code == 403
        action = {"action": "delete", "id": "greeting"}
        headers = {"X-Streamstores-Monitor": "1"}
        answer = client.post("/monitor/actions", json=action, headers=headers)
        assert answer.status_code == 403
    assert use(url, lambda store: content(store, "greeting")) == b"hello"


def test_a_writable_server_creates_appends_and_deletes(url):
    with serving(url, "--writable") as client:
        headers = {"Content-Type": "text/plain"}
        assert client.put("/streams/new", headers=headers).status_code == 201
        added = client.post("/streams/new", content=b"text", headers=headers)
        assert added.status_code == 204
        assert client.get("/streams/new").content == b"text"
        assert client.delete("/streams/greeting").status_code == 204
        assert client.get("/streams/greeting").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # a name that was made to resolve to 127.0.0.1
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"X-Forwarded-For": "10.0.0.1"},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_a_page_of_another_origin_reads_and_changes_nothing(url, headers):
    with serving(url, "--writable") as client:
        for method in ("GET", "PUT", "POST", "DELETE"):
            answer = client.request(method, "/streams/greeting", headers=headers)
            assert answer.status_code == 403, method
            assert b"hello" not in answer.content
    assert use(url, lambda store: content(store, "greeting")) == b"hello"


def test_with_a_password_every_path_needs_it(url):
    token = base64.b64encode(f"any:{PASSWORD}".encode()).decode()
    with serving(url, "--host", "0.0.0.0", "--writable", password=PASSWORD) as client:
        for path in (
            "/",
            "/monitor/",
            "/monitor/streams",
            "/monitor/events",
            "/streams/greeting",
        ):
            for given in ("", "Bearer wrong", "Basic !", f"Basic {token[:-8]}", "Digest x"):
                answer = client.get(path, headers={"Authorization": given})
                assert answer.status_code == 401, (path, given)
                assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        for given in (f"Bearer {PASSWORD}", f"Basic {token}", f"basic {token}"):
            headers = {"Authorization": given}
            assert client.get("/monitor/streams", headers=headers).status_code == 200
            assert client.get("/streams/greeting", headers=headers).content == b"hello"
            # A browser sends a password that it knows along with another page's request.
            cross = {**headers, "Origin": "http://evil.example"}
            assert client.delete("/streams/greeting", headers=cross).status_code == 403
    printed = json.dumps(client.shown)
    assert PASSWORD not in printed


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "some-name"])
def test_an_address_that_others_reach_needs_a_password(url, host):
    refused = run("serve", "--host", host, url=url)
    assert refused.returncode == 2
    assert b"STREAMSTORES_PASSWORD" in refused.stderr
    assert refused.stderr.count(b"\n") == 1


def test_a_short_password_is_refused(url, monkeypatch):
    monkeypatch.setenv("STREAMSTORES_PASSWORD", "secret")
    refused = run("serve", url=url)
    assert refused.returncode == 2
    assert b"at least 12 characters" in refused.stderr
    assert b"secret" not in refused.stderr


def test_what_it_cannot_use_is_one_line_and_a_code(url):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", port, url=url)
        assert result.returncode == 1
        assert b"choose another" in result.stderr
        silent = run("serve", "--port", 0, url=f"redis://127.0.0.1:{port}/0?timeout=1")
        assert silent.returncode == 5
    assert run("serve", "--port", 0, url="nonsense://x").returncode == 2


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0_and_its_open_responses_at_once(url, ending):
    text = {"content-type": "text/plain"}
    use(url, lambda store: store.create("live", b"so far", attributes=text))
    with serving(url) as client:
        params = {"offset": "-1", "live": "sse"}
        with client.stream("GET", "/streams/live", params=params, timeout=60) as response:
            lines = response.iter_lines()
            while "so far" not in next(lines):
                pass
            client.process.send_signal(ending)
            for _ in lines:
                pass  # to a clean end: httpx raises if the connection is only cut
        assert client.process.wait(60) == 0
        assert b"Traceback" not in client.process.stderr.read()
