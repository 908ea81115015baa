"""Synchronous frameworks: a Flask application and the tasks of a Celery worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import flask
import httpx
import pytest
from werkzeug.serving import make_server

from streamstores import State, StreamNotFound
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
        streams.info(stream_id)
        return flask.Response(
            streams.body(stream_id, flask.request), mimetype="text/event-stream"
        )

    @app.errorhandler(StreamNotFound)
    def missing(error):
        return {"error": "no such stream"}, 404

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
    streams.close()


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
        assert client.get(f"{flask_url}/chat/none").status_code == 404


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
