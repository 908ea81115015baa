"""Sends a message to one server, leaves in the middle, and joins the task in another."""

import asyncio
import sys

from a2a.client import create_client
from a2a.types import Message, Part, Role, SendMessageRequest, SubscribeToTaskRequest, TaskState

SENTENCE = "It was the best of times, it was the worst of times, it was the age of wisdom."


async def main(first: str, second: str) -> None:
    message = Message(message_id="m1", role=Role.ROLE_USER, parts=[Part(text=SENTENCE)])
    async with await create_client(f"http://127.0.0.1:{first}") as client:
        async for event in client.send_message(SendMessageRequest(message=message)):
            if event.HasField("task"):
                task_id = event.task.id
            if event.HasField("artifact_update") and event.artifact_update.append:
                break
    print("left", flush=True)
    async with await create_client(f"http://127.0.0.1:{second}") as client:
        state = None
        async for event in client.subscribe(SubscribeToTaskRequest(id=task_id)):
            for artifact in event.task.artifacts or [event.artifact_update.artifact]:
                print("".join(part.text for part in artifact.parts), end="", flush=True)
            if event.HasField("status_update"):
                state = event.status_update.status.state
    print(f"\n{TaskState.Name(state)}")


asyncio.run(main(*sys.argv[1:]))
