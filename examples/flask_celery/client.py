"""A client that queues an answer, leaves in the middle of it, and comes back for the rest."""

import json
import sys
import time
import uuid

import httpx

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom."


def read(client: httpx.Client, url: str, last_id: str, at_most: int) -> tuple[str, str]:
    """The words of at most so many events, and the id of the last event."""
    words = ""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with client.stream("GET", url, headers=headers) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                last_id = value
            elif name == "data":
                words += json.loads(value)["text"]
            elif not line and words.count(" ") >= at_most:
                break
    return words, last_id


def main(server: str) -> None:
    url = f"{server}/answers/{uuid.uuid4()}"
    with httpx.Client(timeout=60) as client:
        client.post(url, params={"prompt": TEXT}).raise_for_status()
        first, last_id = read(client, url, "", 5)  # waits for the worker
        print(first + "(away) ", end="", flush=True)
        time.sleep(0.5)
        rest, last_id = read(client, url, last_id, 1000)
        print(rest)
        # 204 ends the reconnects of an EventSource.
        assert client.get(url, headers={"Last-Event-ID": last_id}).status_code == 204
    assert (first + rest).split() == TEXT.split()
    print("complete")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
