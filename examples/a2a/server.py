"""An A2A agent that repeats what it is told, word by word. Run it twice, on two ports."""

import asyncio
import sys
from contextlib import asynccontextmanager

import uvicorn
from a2a.helpers.proto_helpers import new_task_from_user_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, Part
from starlette.applications import Starlette

from streamstores import open_store
from streamstores.integrations.a2a import A2ATaskStore


class Parrot(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        await event_queue.enqueue_event(new_task_from_user_message(context.message))
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        for number, word in enumerate(context.get_user_input().split()):
            await asyncio.sleep(0.2)
            parts = [Part(text=f"{word} ")]
            await updater.add_artifact(parts, artifact_id="answer", append=number > 0)
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def create_app(store_url: str = "sqlite:///tasks.db", port: int = 8000) -> Starlette:
    url = f"http://127.0.0.1:{port}/a2a"
    card = AgentCard(
        name="Parrot",
        capabilities=AgentCapabilities(streaming=True),
        supported_interfaces=[
            AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")
        ],
    )
    store = open_store(store_url)
    tasks = A2ATaskStore(store, heartbeat=1.0)
    handler = tasks.request_handler(Parrot(), card)

    @asynccontextmanager
    async def lifespan(app: Starlette):
        async with store, tasks:
            yield
            await handler.aclose()

    routes = [*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/a2a")]
    return Starlette(routes=routes, lifespan=lifespan)


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(create_app(port=port), port=port)
