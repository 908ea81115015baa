"""Synchronous frameworks: a Flask application and the tasks of a Celery worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import flask
import httpx
import pytest
from werkzeug.serving import make_server

from streamstores import State
from streamstores.blocking import BlockingStreams, open_store
from tests.services import redis

COUNT = 100
WHOLE = [str(number) for number in range(COUNT)]


def tokens() -> Iterator[str]:
    for number in range(COUNT):
        yield f"data: {number}\n\n"
        time.sleep(0.002)


@pytest.fixture
def flask_url(tmp_path):
    streams = BlockingStreams(f"sqlite:///{tmp_path}/streams.db", heartbeat=0.5)
    app = flask.Flask(__name__)

    @app.post("/chat/<stream_id>")
    def chat(stream_id):
        streams.start(stream_id, tokens)
        return flask.Response(streams.body(stream_id), mimetype="text/event-stream")

    @app.get("/chat/<stream_id>")
    def resume(stream_id):
        seconds = float(flask.request.args.get("seconds", 0))
        return streams.replay(stream_id, flask.request, wait_for_create=seconds)

    with serving(app) as url:
        yield url
    streams.close()


@contextmanager
def serving(app: flask.Flask) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def numbers_of(text: str) -> list[str]:
    return re.findall(r"^data: (.*)$", text, re.MULTILINE)


def test_a_flask_view_is_resumable_with_two_lines(flask_url):
    with httpx.Client(timeout=60) as client:
        text = ""
        with client.stream("POST", f"{flask_url}/chat/a") as response:
            for part in response.iter_text():
                text += part
                if text.count("\n\n") > 5:
                    break
        text = text[: text.rfind("\n\n") + 2]
        last_id = re.findall(r"^id: (\d+)$", text, re.MULTILINE)[-1]
        rest = client.get(f"{flask_url}/chat/a", headers={"Last-Event-ID": last_id})
        assert numbers_of(text) + numbers_of(rest.text) == WHOLE


def test_its_refusals_are_those_of_a_resumable_stream(flask_url):
    with httpx.Client(base_url=f"{flask_url}/chat", timeout=60) as client:
        missing = client.get("/none")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        whole = client.post("/a").text
        ids = re.findall(r"^id: (\d+)$", whole, re.MULTILINE)
        for offset, status, code in (
            ("abc", 400, "invalid_offset"),
            ("1", 400, "invalid_offset"),
            ("99999", 416, "offset_out_of_range"),
        ):
            refused = client.get("/a", params={"offset": offset})
            assert (refused.status_code, refused.json()["code"]) == (status, code)
        # 204 ends the reconnects of an EventSource.
        assert client.get("/a", headers={"Last-Event-ID": ids[-1]}).status_code == 204
        again = client.get("/a", params={"offset": ids[-2]})
        assert again.headers["x-stream-offset"] == ids[-2]
        assert numbers_of(again.text) == WHOLE[-1:]


def test_a_client_that_leaves_a_silent_stream_gives_its_thread_back(tmp_path):
    """A thread that waits for the next event cannot see that; a ping that fails shows it."""
    go_on, left = threading.Event(), threading.Event()

    def silent():
        yield "data: 1\n\n"
        go_on.wait(60)

    streams = BlockingStreams(f"sqlite:///{tmp_path}/streams.db", ping_interval=0.1)
    app = flask.Flask(__name__)

    @app.post("/")
    def answer():
        def body():
            try:
                yield from streams.body("a")
            finally:
                left.set()

        streams.start("a", silent)
        return flask.Response(body(), mimetype="text/event-stream")

    with serving(app) as url, httpx.Client(timeout=60) as client:
        with client.stream("POST", url) as response:
            assert next(response.iter_text())
        assert left.wait(30)
        go_on.set()
    streams.close()


def test_a_reader_may_come_before_the_task(flask_url):
    def read():
        with httpx.Client(timeout=60) as client:
            answers.append(client.get(f"{flask_url}/chat/late", params={"seconds": 60}))

    answers = []
    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.3)
    assert not answers
    httpx.post(f"{flask_url}/chat/late", timeout=60)
    reader.join(60)
    assert numbers_of(answers[0].text) == WHOLE


DJANGO = """
import sys, django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import StreamingHttpResponse
from django.test import Client
from django.urls import path
from streamstores.blocking import BlockingStreams

settings.configure(ROOT_URLCONF="__main__", ALLOWED_HOSTS=["*"], SECRET_KEY="k")
streams = BlockingStreams(sys.argv[1])

def resume(request, stream_id):
    body, status, headers = streams.replay(stream_id, request)
    return StreamingHttpResponse(body, status=status, headers=headers)

urlpatterns = [path("chat/<str:stream_id>", resume)]
get_wsgi_application()
streams.produce("a", lambda: (f"data: {number}\\n\\n" for number in range(3)))
client = Client()
for url, headers in (
    ("/chat/a", {}), ("/chat/a", {"Last-Event-ID": "18"}), ("/chat/none", {})
):
    answer = client.get(url, headers=headers)
    print(answer.status_code, answer.headers["Content-Type"], answer.getvalue())
streams.close()
"""


def test_a_view_of_django_on_wsgi_answers_the_same(tmp_path):
    command = [sys.executable, "-c", DJANGO, f"sqlite:///{tmp_path}/streams.db"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    whole, rest, missing = run.stdout.splitlines()
    events = "text/event-stream; charset=utf-8"
    assert whole.startswith(f"200 {events} b'id: 9\\ndata: 0\\n\\nid: 18")
    assert rest == f"200 {events} b'id: 27\\ndata: 2\\n\\n'"
    assert missing.startswith("404 application/json b'{")


@pytest.fixture
def celery_worker(tmp_path):
    """A worker that forks, on a Redis broker; gives its application's environment."""
    broker = redis.shared()
    environment = {
        **os.environ,
        "BROKER": broker,
        "STORE": redis.with_own_prefix(broker),
    }
    command = [
        *(sys.executable, "-m", "celery", "-A", "tests.http.celery_app"),
        *("worker", "--pool", "prefork", "--concurrency", "2", "-Q", tmp_path.name),
        "--without-gossip",
    ]
    log = (tmp_path / "log").open("wb")
    worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    yield environment, tmp_path.name
    worker.terminate()
    try:
        worker.wait(30)
    finally:
        worker.kill()
        log.close()


SEND = """
import sys
from tests.http.celery_app import app
app.send_task("tests.http.celery_app." + sys.argv[2], sys.argv[3:4] + [int(sys.argv[4])],
              queue=sys.argv[1])
"""


@pytest.mark.parametrize("task", ["write", "produce"])
def test_a_celery_task_produces_a_stream_that_others_follow(celery_worker, task):
    environment, queue = celery_worker
    command = [sys.executable, "-c", SEND, queue, task, "a", str(COUNT)]
    subprocess.run(command, env=environment, check=True, timeout=60)
    with open_store(environment["STORE"]) as store:
        data = b"".join(
            record.data for record in store.follow("a", wait_for_create=60)
        ).decode()
        assert store.info("a").state is State.DONE
    assert (numbers_of(data) if task == "produce" else data.split()) == WHOLE
