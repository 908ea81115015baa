"""The request handler of the A2A SDK, whose subscriptions are exact."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from a2a.server.agent_execution import AgentExecutor
from a2a.server.cluster import TaskEventStream, VersionedTaskStore
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers import DefaultRequestHandlerV2
from a2a.types.a2a_pb2 import (
    AgentCard,
    SubscribeToTaskRequest,
    TaskState,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import TaskNotFoundError, UnsupportedOperationError

from streamstores.integrations._a2a_entries import (
    INTERRUPTED_STATES,
    TERMINAL_STATES,
    AgentEvent,
)

__all__ = ["ExactRequestHandler"]


class ExactRequestHandler(DefaultRequestHandlerV2):
    """The SDK's `DefaultRequestHandler`, except that a subscriber reads the stored task.

    In the process that runs the agent, the SDK 1.3 sends a subscriber the task in memory and
    then the events that come after. An event that is being saved at that moment is in both, so
    its piece of the answer is doubled. Here both come from the store, in which a task and its
    events meet at a version.
    """

    def __init__(
        self,
        agent_executor: AgentExecutor,
        task_store: VersionedTaskStore,
        agent_card: AgentCard,
        *,
        event_stream: TaskEventStream,
        **options: Any,
    ) -> None:
        super().__init__(
            agent_executor, task_store, agent_card, event_stream=event_stream, **options
        )
        self._card = agent_card
        self._tasks = task_store
        self._events = event_stream

    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[AgentEvent, None]:
        """The task, and then its events, until it ends or asks for something.

        Raises `TaskNotFoundError`, also for a task of another owner, and
        `UnsupportedOperationError` for a task that has ended, or if the agent's card does not
        offer streaming.
        """
        if not self._card.capabilities.streaming:
            raise UnsupportedOperationError("Streaming is not supported by the agent")
        stored = await self._tasks.get(params.id, context)
        if stored is None:
            raise TaskNotFoundError
        state = stored.task.status.state
        if state in TERMINAL_STATES:
            name = TaskState.Name(state)
            raise UnsupportedOperationError(f"Task {params.id} is in terminal state: {name}")
        yield stored.task
        events = self._events.subscribe(params.id, after=stored.version)
        async with aclosing(events):
            async for versioned in events:
                event = versioned.event
                yield event
                is_status = isinstance(event, TaskStatusUpdateEvent)
                if is_status and event.status.state in INTERRUPTED_STATES:
                    return
