"""A client that loses its connection after every ten events, and resumes."""

import asyncio
import sys

import openai

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 3


async def read(client: openai.AsyncOpenAI) -> str:
    stream = await client.responses.create(model="parrot", input=TEXT, stream=True)
    response_id, last, text = "", -1, ""
    while True:
        try:
            async with stream:
                async for event in stream:
                    last = event.sequence_number
                    if event.type == "response.created":
                        response_id = event.response.id
                    elif event.type == "response.output_text.delta":
                        text += event.delta
                        print(event.delta, end="", flush=True)
                    elif event.type == "response.completed":
                        return text
                    if last % 10 == 9:
                        break  # as if the network were lost
            stream = await client.responses.retrieve(
                response_id, stream=True, starting_after=last
            )
        except (openai.APIConnectionError, openai.InternalServerError):
            await asyncio.sleep(0.5)  # the server is being restarted


async def main(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:
        assert (await read(client)).split() == TEXT.split()
    print("\ncomplete")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000/v1"))
