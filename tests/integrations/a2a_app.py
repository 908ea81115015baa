"""An A2A agent that counts, as two replicas, `/a` and `/b`, on one store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from a2a.auth.user import User
from a2a.helpers.proto_helpers import new_task_from_user_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.events import EventQueue
from a2a.server.routes import ServerCallContextBuilder, create_jsonrpc_routes
from a2a.server.tasks import TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, Message, Part
from starlette.applications import Starlette
from starlette.requests import Request

from streamstores import open_store
from streamstores.integrations.a2a import A2ATaskStore

CALLS = Path(os.environ["CALLS"])
GO = Path(os.environ.get("GO", os.environ["CALLS"]))


class Counter(AgentExecutor):
    """Counts to the number in the message, with the pause in it between the numbers.

    Half-way it waits for the file `GO`, if that is set. A third word says what happens at the
    end: `raise`, `ask` for input, `hang`, or reply with a `message` in the middle of a task,
    which no agent may do.
    """

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        with CALLS.open("a") as calls:
            calls.write(f"{os.getpid()}\n")
        if context.current_task is None:
            assert context.message is not None
            await event_queue.enqueue_event(new_task_from_user_message(context.message))
        task_id, context_id = str(context.task_id), str(context.context_id)
        updater = TaskUpdater(event_queue, task_id, context_id)
        count, pause, *then = context.get_user_input().split()
        await updater.start_work()
        for number in range(int(count)):
            while number == int(count) // 2 and not GO.exists():
                await asyncio.sleep(0.02)
            parts = [Part(text=f"{number} ")]
            await updater.add_artifact(parts, artifact_id="answer", append=number > 0)
            await asyncio.sleep(float(pause))
        await self._end(updater, event_queue, then)

    async def _end(
        self, updater: TaskUpdater, event_queue: EventQueue, then: list[str]
    ) -> None:
        if then == ["raise"]:
            raise ValueError("the agent failed")
        if then == ["hang"]:
            await asyncio.Event().wait()
        if then == ["message"]:
            await event_queue.enqueue_event(Message(message_id="m", parts=[Part(text="?")]))
        if then == ["ask"]:
            await updater.requires_input()
        else:
            await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, str(context.task_id), str(context.context_id)).cancel()


class NamedUser(User):
    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def user_name(self) -> str:
        return self._name


class FromHeader(ServerCallContextBuilder):
    """The caller is whoever the header `x-user` names."""

    def build(self, request: Request) -> ServerCallContext:
        user = NamedUser(request.headers.get("x-user", "alice"))
        return ServerCallContext(user=user, state={"headers": dict(request.headers)})


store = open_store(os.environ["STORE"])
ttl = float(os.environ["TTL"]) if "TTL" in os.environ else None
card = AgentCard(name="counter", capabilities=AgentCapabilities(streaming=True))
replicas = [A2ATaskStore(store, heartbeat=0.5, ttl=ttl) for _ in range(2)]
handlers = [tasks.request_handler(Counter(), card) for tasks in replicas]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(store)
        for tasks, handler in zip(replicas, handlers, strict=True):
            await stack.enter_async_context(tasks)
            stack.push_async_callback(handler.aclose)
        yield


routes = [
    route
    for path, handler in zip("ab", handlers, strict=True)
    for route in create_jsonrpc_routes(handler, f"/{path}", FromHeader())
]
app = Starlette(routes=routes, lifespan=lifespan)
