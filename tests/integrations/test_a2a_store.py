"""The task store and the event stream of A2A, called as the SDK calls them."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timezone

import pytest
from a2a.auth.user import User
from a2a.helpers.proto_helpers import new_task_from_user_message
from a2a.server.agent_execution import AgentExecutor
from a2a.server.cluster import ConcurrentTaskModificationError, TaskVersion
from a2a.server.context import ServerCallContext
from a2a.server.tasks import InMemoryTaskStore, TaskManager, TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    Artifact,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    SubscribeToTaskRequest,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import InvalidParamsError, TaskNotFoundError, UnsupportedOperationError

from streamstores import MemoryStreamStore, open_store
from streamstores.errors import InvalidRequest, OutcomeUnknown
from streamstores.integrations.a2a import A2ATaskStore
from tests.integrations.conftest import EVERY_STORE

SUBMITTED, WORKING = TaskState.TASK_STATE_SUBMITTED, TaskState.TASK_STATE_WORKING
DONE, FAILED = TaskState.TASK_STATE_COMPLETED, TaskState.TASK_STATE_FAILED
CANCELED = TaskState.TASK_STATE_CANCELED
STREAMING = AgentCard(name="a", capabilities=AgentCapabilities(streaming=True))


class Named(User):
    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def user_name(self) -> str:
        return self._name


def context(user: str = "alice") -> ServerCallContext:
    return ServerCallContext(user=Named(user))


def task(state=SUBMITTED, task_id: str = "t", **fields) -> Task:
    return Task(id=task_id, context_id="c", status=TaskStatus(state=state), **fields)


def status(state) -> TaskStatusUpdateEvent:
    return TaskStatusUpdateEvent(task_id="t", context_id="c", status=TaskStatus(state=state))


def piece(text: str, *, append: bool, artifact: str = "a") -> TaskArtifactUpdateEvent:
    parts = [Part(text=text)]
    return TaskArtifactUpdateEvent(
        task_id="t",
        context_id="c",
        artifact=Artifact(artifact_id=artifact, parts=parts),
        append=append,
    )


def save(tasks, what, prev=TaskVersion.MISSING, event=None, user="alice"):
    return tasks.save(what, event=event, prev=None, prev_version=prev, context=context(user))


@pytest.fixture
async def store(store_url: str):
    async with open_store(store_url) as store:
        yield store


@pytest.fixture
async def tasks(store):
    async with A2ATaskStore(store) as tasks:
        yield tasks


@EVERY_STORE
async def test_of_racing_saves_one_wins(store):
    all_tasks = [A2ATaskStore(store) for _ in range(8)]
    firsts = await asyncio.gather(
        *(save(each, task()) for each in all_tasks), return_exceptions=True
    )
    [version] = [each for each in firsts if isinstance(each, TaskVersion)]
    assert sum(isinstance(each, ConcurrentTaskModificationError) for each in firsts) == 7
    nexts = await asyncio.gather(
        *(save(each, task(WORKING), version) for each in all_tasks), return_exceptions=True
    )
    [second] = [each for each in nexts if isinstance(each, TaskVersion)]
    assert sum(isinstance(each, ConcurrentTaskModificationError) for each in nexts) == 7
    assert second.is_after(version)
    stored = await all_tasks[0].get("t", context())
    assert (stored.version, stored.task.status.state) == (second, WORKING)
    for each in all_tasks:
        await each.aclose()


async def test_a_canceled_task_replaces_any_version_that_has_not_ended(tasks):
    with pytest.raises(ConcurrentTaskModificationError):
        await save(tasks, task(CANCELED), TaskVersion(5))
    first = await save(tasks, task())
    await save(tasks, task(WORKING), first)
    with pytest.raises(ConcurrentTaskModificationError):
        await save(tasks, task(CANCELED), first, user="mallory")
    canceled = await save(tasks, task(CANCELED), first)
    assert (await tasks.get("t", context())).version == canceled
    with pytest.raises(ConcurrentTaskModificationError):
        await save(tasks, task(CANCELED), canceled)


async def test_a_version_of_a_deleted_task_is_none_of_the_next_task_with_its_id(tasks, store):
    old = await save(tasks, task())
    other = A2ATaskStore(store)
    await other.delete("t", context("mallory"))
    assert await tasks.get("t", context()) is not None
    await other.delete("t", context())
    await other.delete("t", context())
    assert await tasks.get("t", context()) is None
    new = await save(other, task())
    assert new != old
    for zombie in (tasks, other):
        with pytest.raises(ConcurrentTaskModificationError):
            await save(zombie, task(WORKING), old)
    with pytest.raises(TaskNotFoundError):
        await anext(tasks.event_stream.subscribe("t", after=old))
    await other.aclose()


async def test_a_save_with_another_owner_is_refused(tasks):
    first = await save(tasks, task())
    for prev in (first, TaskVersion.MISSING):
        with pytest.raises(ConcurrentTaskModificationError):
            await save(tasks, task(WORKING), prev, user="mallory")
    assert await tasks.get("t", context("mallory")) is None


async def test_a_version_that_is_no_number_is_a_type_error(tasks):
    await save(tasks, task())
    with pytest.raises(TypeError, match="integer versions"):
        await save(tasks, task(WORKING), TaskVersion("x"))


@pytest.mark.parametrize("heartbeat", [0, -1, float("nan")])
def test_a_heartbeat_that_cannot_be_is_refused(heartbeat):
    with pytest.raises(InvalidRequest):
        A2ATaskStore(MemoryStreamStore(), heartbeat=heartbeat)


@EVERY_STORE
async def test_what_the_sdk_saves_is_read_exactly_by_every_process(store):
    """Random events, through the SDK's own `TaskManager`, compared with its own store."""
    rng = random.Random(7)
    expected = InMemoryTaskStore()
    ours, reader = A2ATaskStore(store), A2ATaskStore(store)
    managers = [
        TaskManager(each, context(), task_id="t", context_id="c", initial_message=None)
        for each in (ours, expected)
    ]
    events = [task(), status(WORKING)]
    for number in range(150):
        name = rng.choice("ab")
        has_begun = any(
            isinstance(each, TaskArtifactUpdateEvent) and each.artifact.artifact_id == name
            for each in events
        )
        event = piece(f"{number} " * rng.choice([1, 1, 500]), append=has_begun, artifact=name)
        if rng.random() < 0.2:
            event = status(WORKING)
            event.status.message.CopyFrom(Message(message_id=str(number), role=Role.ROLE_AGENT))
            event.metadata.update({"number": number})
        events.append(event)
    for event in events:
        for manager in managers:
            copy = type(event)()
            copy.CopyFrom(event)
            await manager.save_task_event(copy)
        if rng.random() < 0.3:
            read = await reader.get("t", context())
            assert read.task == await expected.get("t", context())
            assert read.version == managers[0].current_version
    await ours.aclose()
    subscription = reader.event_stream.subscribe("t", after=TaskVersion.MISSING)
    seen = [versioned.event async for versioned in subscription]
    assert seen[:-1] == events
    assert seen[-1].status.state == FAILED, "the process has ended before the task"
    await reader.aclose()


async def test_an_answer_in_small_pieces_is_not_stored_anew_with_each(tasks, store):
    manager = TaskManager(tasks, context(), task_id="t", context_id="c", initial_message=None)
    await manager.save_task_event(task(WORKING))
    sent = 0
    for number in range(600):
        event = piece("word ", append=number > 0)
        sent += event.ByteSize()
        await manager.save_task_event(event)
    size = (await store.info("a2a-task/t")).tail
    assert size < 3 * sent
    stored = await tasks.get("t", context())
    assert len(stored.task.artifacts[0].parts) == 600


async def test_a_task_that_is_longer_than_a_record_is_kept_whole(tasks):
    text = "x" * 2_500_000
    event = piece(text, append=False)
    first = await save(tasks, task(WORKING))
    await save(tasks, task(WORKING, artifacts=[event.artifact]), first, event)
    stored = await tasks.get("t", context())
    assert stored.task.artifacts[0].parts[0].text == text
    subscription = tasks.event_stream.subscribe("t", after=first)
    assert (await anext(subscription)).event == event
    await subscription.aclose()


class Forgetful(MemoryStreamStore):
    """Applies calls whose answers are lost."""

    lost = 0

    async def append(self, *args, **options):
        info = await super().append(*args, **options)
        return self._answer(info)

    async def create(self, *args, **options):
        info = await super().create(*args, **options)
        return self._answer(info)

    def _answer(self, info):
        if self.lost:
            self.lost -= 1
            raise OutcomeUnknown("the answer was lost")
        return info


async def test_a_save_whose_answer_is_lost_is_applied_once():
    async with Forgetful() as store, A2ATaskStore(store) as tasks:
        store.lost = 1
        first = await save(tasks, task(), event=task())
        store.lost = 1
        second = await save(tasks, task(WORKING), first, status(WORKING))
        assert (await tasks.get("t", context())).version == second
        await save(tasks, task(DONE), second, status(DONE))
        subscription = tasks.event_stream.subscribe("t", after=TaskVersion.MISSING)
        events = [versioned.event async for versioned in subscription]
        assert events == [task(), status(WORKING), status(DONE)]


async def test_a_task_that_ends_without_an_event_ends_its_subscribers(tasks):
    first = await save(tasks, task())
    subscription = tasks.event_stream.subscribe("t", after=first)
    reading = asyncio.ensure_future(anext(subscription))
    await save(tasks, task(DONE), first)
    assert (await asyncio.wait_for(reading, 30)).event == task(DONE)
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)
    stored = await tasks.get("t", context())
    late = tasks.event_stream.subscribe("t", after=stored.version)
    assert [event async for event in late] == []


async def test_a_subscriber_of_a_deleted_task_gets_task_not_found(tasks):
    first = await save(tasks, task())
    reading = asyncio.ensure_future(anext(tasks.event_stream.subscribe("t", after=first)))
    await asyncio.sleep(0)
    await tasks.delete("t", context())
    with pytest.raises(TaskNotFoundError):
        await asyncio.wait_for(reading, 30)


async def test_closing_fails_the_tasks_that_run_here_and_no_other(store):
    here, elsewhere = A2ATaskStore(store), A2ATaskStore(store)
    await save(here, task(WORKING))
    await save(elsewhere, task(WORKING, "other"))
    await save(here, task(TaskState.TASK_STATE_INPUT_REQUIRED, "asks"))
    await here.aclose()
    await here.aclose()
    states = [
        (await elsewhere.get(name, context())).task.status.state
        for name in ("t", "other", "asks")
    ]
    assert states == [FAILED, WORKING, TaskState.TASK_STATE_INPUT_REQUIRED]
    await elsewhere.aclose()


LISTS = [
    ListTasksRequest(),
    ListTasksRequest(page_size=2),
    ListTasksRequest(context_id="c1"),
    ListTasksRequest(context_id="none"),
    ListTasksRequest(status=WORKING),
    ListTasksRequest(context_id="c0", status=SUBMITTED, page_size=1),
    ListTasksRequest(status_timestamp_after=datetime(2025, 1, 2, tzinfo=timezone.utc)),
]


@EVERY_STORE
async def test_lists_and_their_pages_are_those_of_the_sdk(store):
    tasks, expected = A2ATaskStore(store, heartbeat=None), InMemoryTaskStore()
    for number in range(7):
        each = task([SUBMITTED, WORKING, DONE][number % 3], f"t{number}")
        each.context_id = f"c{number % 2}"
        if number != 4:
            each.status.timestamp.FromDatetime(datetime(2025, 1, 1 + number // 3))
        await save(tasks, each)
        await expected.save(each, context())
    await save(tasks, task(WORKING, "foreign"), user="mallory")
    for params in LISTS:
        while True:
            page = await tasks.list(params, context())
            assert page == await expected.list(params, context())
            if not page.next_page_token:
                break
            params.page_token = page.next_page_token
    for token in ("?", "dGFzay0xMDA="):
        with pytest.raises(InvalidParamsError):
            await tasks.list(ListTasksRequest(page_token=token), context())
    await tasks.aclose()


async def test_a_store_that_cannot_list_says_so():
    class Unlisted(MemoryStreamStore):
        capabilities = MemoryStreamStore.capabilities - {"list"}

    async with Unlisted() as store, A2ATaskStore(store) as tasks:
        with pytest.raises(UnsupportedOperationError, match="cannot list"):
            await tasks.list(ListTasksRequest(), context())


class SlowToSave(MemoryStreamStore):
    """A store in which clients often join while an event is being saved."""

    async def append(self, *args, **options):
        await asyncio.sleep(0.01)
        return await super().append(*args, **options)


class Counter(AgentExecutor):
    async def execute(self, context, event_queue) -> None:
        await event_queue.enqueue_event(new_task_from_user_message(context.message))
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        for number in range(40):
            parts = [Part(text=f"{number} ")]
            await updater.add_artifact(parts, artifact_id="a", append=number > 0)
        await updater.complete()

    async def cancel(self, context, event_queue) -> None: ...


async def test_a_client_that_joins_while_an_event_is_saved_gets_it_once():
    async with SlowToSave() as store, A2ATaskStore(store) as tasks:
        handler = tasks.request_handler(Counter(), STREAMING)
        message = Message(message_id="m", role=Role.ROLE_USER, parts=[Part(text="go")])
        sent = handler.on_message_send_stream(SendMessageRequest(message=message), context())
        first = await anext(sent)
        texts = []
        async for _ in sent:
            if len(texts) < 10:
                texts.append(asyncio.ensure_future(joined_text(handler, first.id)))
        expected = "".join(f"{number} " for number in range(40))
        assert await asyncio.gather(*texts) == [expected] * 10
        await handler.aclose()


async def joined_text(handler, task_id: str) -> str:
    text = ""
    async for event in handler.on_subscribe_to_task(
        SubscribeToTaskRequest(id=task_id), context()
    ):
        if isinstance(event, Task):
            text = "".join(part.text for each in event.artifacts for part in each.parts)
        elif isinstance(event, TaskArtifactUpdateEvent):
            text += "".join(part.text for part in event.artifact.parts)
    return text


async def test_an_agent_without_streaming_has_no_subscribers(tasks):
    handler = tasks.request_handler(Counter(), AgentCard(name="a"))
    await save(tasks, task())
    with pytest.raises(UnsupportedOperationError):
        await joined_text(handler, "t")
    await handler.aclose()
