"""A client that leaves in the middle of an answer, and comes back for the rest."""

import asyncio
import json
import sys
import uuid
from typing import Any

import httpx

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom."


async def read(
    client: httpx.AsyncClient, method: str, url: str, at_most: int, **options: Any
) -> tuple[str, str]:
    """The words of at most so many events, and the id of the last event."""
    words, last = "", ""
    async with client.stream(method, url, timeout=60, **options) as response:
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                last = value
            elif name == "data":
                words += json.loads(value)["text"]
            elif not line and words.count(" ") >= at_most:
                break
    return words, last


async def main(server: str) -> None:
    url = f"{server}/answers/{uuid.uuid4()}"
    async with httpx.AsyncClient() as client:
        first, last = await read(client, "POST", url, 5, params={"prompt": TEXT})
        print(first + "(away) ", end="", flush=True)
        await asyncio.sleep(0.5)
        rest, _ = await read(client, "GET", url, 1000, headers={"Last-Event-ID": last})
        print(rest)
    assert (first + rest).split() == TEXT.split()
    print("complete")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"))
