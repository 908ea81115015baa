"""A client that leaves in the middle of an answer, and comes back to see all of it."""

import asyncio
import json
import sys
import uuid

import httpx

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom."


async def read(client: httpx.AsyncClient, method: str, url: str, at_most: int) -> str:
    """The text of at most so many words."""
    text = ""
    async with client.stream(method, url, params={"prompt": TEXT}, timeout=60) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            kind, _, value = line.partition(":")
            if kind == "0":  # a piece of text in assistant-stream's data stream
                text += json.loads(value)
            if text.count(" ") >= at_most:
                break
    return text


async def main(server: str) -> None:
    url = f"{server}/answers/{uuid.uuid4()}"
    async with httpx.AsyncClient() as client:
        print(await read(client, "POST", url, 5), "(away)", flush=True)
        await asyncio.sleep(0.5)
        text = await read(client, "GET", url, 1000)
        print(text)
        assert text.split() == TEXT.split()
        assert (await client.get(f"{url}-other")).status_code == 404
    print("complete")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"))
