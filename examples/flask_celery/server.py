"""A Flask application whose answers a Celery worker produces: see the lines with `streams`."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celery import Celery
from flask import Flask, request, send_file

from streamstores import StreamNotFound
from streamstores.blocking import BlockingStreams

HERE = Path(__file__).parent
QUEUE = Path("queue")  # a broker of files, so that the example needs no server
QUEUE.mkdir(exist_ok=True)

celery = Celery("server", broker="filesystem://")
celery.conf.broker_transport_options = {
    "data_folder_in": QUEUE,
    "data_folder_out": QUEUE,
    "control_folder": QUEUE,
}
streams = BlockingStreams("sqlite:///answers.db")
app = Flask(__name__)


def words(prompt: str) -> Iterator[dict[str, str]]:
    """Your model: here one that repeats what it is told, word by word."""
    for word in prompt.split():
        yield {"text": f"{word} "}
        time.sleep(0.1)


@celery.task
def answer(answer_id: str, prompt: str) -> None:
    streams.produce(answer_id, lambda: words(prompt))


@app.post("/answers/<answer_id>")
def ask(answer_id: str) -> Any:
    answer.delay(answer_id, request.args["prompt"])
    return "", 202


@app.get("/answers/<answer_id>")
def read(answer_id: str) -> Any:
    return streams.replay(answer_id, request, wait_for_create=30)


@app.delete("/answers/<answer_id>")
def stop(answer_id: str) -> Any:
    try:
        streams.info(answer_id, wait_for_create=30)  # it may still be in the queue
        return {"state": streams.stop(answer_id).state}
    except StreamNotFound:
        return "", 404


@app.get("/")
def page() -> Any:
    return send_file(HERE / "index.html")


if __name__ == "__main__":
    app.run(port=8000, threaded=True)
