"""A client that leaves a run in the middle, and joins it again."""

import asyncio
import sys

from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient

QUESTION = "will this answer arrive whole although nobody listens all the time?"


async def begin(client: LangGraphClient, thread_id: str) -> tuple[str, str]:
    """The id of a run, and that of the last event before the client leaves."""
    run_id = ""
    events = client.runs.stream(
        thread_id, "agent", input={"question": QUESTION}, stream_mode=["custom", "values"]
    )
    async for event in events:
        if event.event == "metadata":
            run_id = event.data["run_id"]
        elif event.event == "custom":
            print(event.data["word"], end=" ", flush=True)
            break
    await events.aclose()
    assert event.id is not None
    return run_id, event.id


async def main(url: str) -> None:
    async with get_client(url=url) as client:
        thread = await client.threads.create()
        run_id, last = await begin(client, thread["thread_id"])
        print("(away)", end=" ", flush=True)
        await asyncio.sleep(1)
        events = client.runs.join_stream(thread["thread_id"], run_id, last_event_id=last)
        async for event in events:
            if event.event == "custom":
                print(event.data["word"], end=" ", flush=True)
            if event.event == "values" and "text" in event.data:
                assert event.data["text"].endswith(QUESTION)
        assert event.event == "end", event
    print("\ncomplete")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:2024"))
