"""The stores for A2A agents, with the SDK's own server in processes and its own client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx
import pytest
from a2a.client import ClientConfig, ClientFactory
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    SubscribeToTaskRequest,
    TaskState,
)
from a2a.utils.errors import (
    A2AError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)

from tests.integrations.conftest import EVERY_STORE
from tests.integrations.processes import Process, Start

pytestmark = pytest.mark.long

APP = "tests.integrations.a2a_app:app"
WORKING, DONE = TaskState.TASK_STATE_WORKING, TaskState.TASK_STATE_COMPLETED
FAILED, CANCELED = TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_CANCELED
ASKING = TaskState.TASK_STATE_INPUT_REQUIRED


class Reply:
    """What a client knows of a task from the events that it was sent."""

    def __init__(self) -> None:
        self.task_id = self.context_id = self.text = ""
        self.state = TaskState.TASK_STATE_UNSPECIFIED
        self.said = ""

    def take(self, response) -> None:
        kind = response.WhichOneof("payload")
        event = getattr(response, kind)
        if kind == "task":
            self.task_id, self.context_id = event.id, event.context_id
            self.text = text_of(event)
            self.state = event.status.state
        elif kind == "artifact_update":
            self.text += "".join(part.text for part in event.artifact.parts)
        elif kind == "status_update":
            self.state = event.status.state
            self.said = "".join(part.text for part in event.status.message.parts)


def text_of(task) -> str:
    return "".join(part.text for artifact in task.artifacts for part in artifact.parts)


async def read(
    events: AsyncIterator, *, until: int | None = None, has_begun: asyncio.Event | None = None
) -> Reply:
    """The events to their end, or until `until` numbers of the answer have come."""
    reply = Reply()
    async for response in events:
        reply.take(response)
        if has_begun is not None:
            has_begun.set()
        if until is not None and len(reply.text.split()) >= until:
            break
    with suppress(A2AError, httpx.HTTPError):
        await events.aclose()
    return reply


async def joined(agents: list[Agent], task_id: str) -> list[asyncio.Future[Reply]]:
    """Clients that have joined the task, and that read it to its end."""
    begun = [asyncio.Event() for _ in agents]
    reads = [
        asyncio.ensure_future(read(agent.join(task_id), has_begun=event))
        for agent, event in zip(agents, begun, strict=True)
    ]
    for event, reading in zip(begun, reads, strict=True):
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.wait([waiting, reading], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    return reads


class Agent:
    """A replica, and the SDK's client of it."""

    def __init__(self, url: str, user: str = "alice") -> None:
        interface = AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")
        card = AgentCard(
            name="counter",
            supported_interfaces=[interface],
            capabilities=AgentCapabilities(streaming=True),
        )
        self._http = httpx.AsyncClient(timeout=60, headers={"x-user": user})
        self.client = ClientFactory(ClientConfig(httpx_client=self._http)).create(card)

    def send(self, text: str, *, task: Reply | None = None, message_id: str = "m"):
        message = Message(role=Role.ROLE_USER, message_id=message_id, parts=[Part(text=text)])
        if task is not None:
            message.task_id, message.context_id = task.task_id, task.context_id
        return self.client.send_message(SendMessageRequest(message=message))

    def join(self, task_id: str):
        return self.client.subscribe(SubscribeToTaskRequest(id=task_id))

    async def get(self, task_id: str):
        return await self.client.get_task(GetTaskRequest(id=task_id))

    async def cancel(self, task_id: str):
        return await self.client.cancel_task(CancelTaskRequest(id=task_id))

    async def aclose(self) -> None:
        await self.client.close()
        await self._http.aclose()


class Replicas:
    """Two replicas of the agent: two processes, or one if the store is in memory."""

    def __init__(self, processes: list[Process], stack: AsyncExitStack) -> None:
        self.processes = processes
        self._stack = stack
        paths = ["/a", "/b"] if len(processes) == 1 else ["/a", "/a"]
        self._urls = [processes[n % len(processes)].url + paths[n] for n in range(2)]

    def __getitem__(self, number: int) -> Agent:
        return self.agent(number)

    def agent(self, number: int, user: str = "alice") -> Agent:
        agent = Agent(self._urls[number], user)
        self._stack.push_async_callback(agent.aclose)
        return agent


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def replicas(start: Start, stack: AsyncExitStack, store_url: str, go: Path) -> Replicas:
    """Two processes of the agent; one, which has two replicas, if the store is in memory."""
    count = 1 if store_url.startswith("memory") else 2
    return Replicas([await start(APP, GO=str(go)) for _ in range(count)], stack)


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """The file for which agents wait half-way."""
    return tmp_path / "go"


def said(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


@EVERY_STORE
async def test_a_task_is_streamed_and_kept(replicas: Replicas, go):
    go.touch()
    reply = await read(replicas[0].send("5 0"))
    assert (reply.text, reply.state) == (said(5), DONE)
    kept = await replicas[1].get(reply.task_id)
    assert text_of(kept) == said(5)
    assert kept.status.state == DONE


@EVERY_STORE
async def test_clients_that_were_cut_or_join_late_get_all_in_every_process(replicas, go):
    cut = await read(replicas[0].send("200 0.005"), until=5)
    reads = await joined([replicas[0], replicas[0], replicas[1], replicas[1]], cut.task_id)
    go.touch()
    for reply in await asyncio.gather(*reads):
        assert (reply.text, reply.state) == (said(200), DONE)


async def test_a_client_that_is_cut_again_and_again_gets_all_of_it(replicas, go):
    cut = await read(replicas[0].send("200 0.01"), until=3)
    for until in (20, 40, 60, 80, 100):
        part = await read(replicas[1].join(cut.task_id), until=until)
        assert said(200).startswith(part.text)
    reads = await joined([replicas[1]], cut.task_id)
    go.touch()
    assert (await reads[0]).text == said(200)


@EVERY_STORE
async def test_a_cancel_in_another_process_stops_the_agent_and_all_clients(replicas, go):
    go.touch()
    cut = await read(replicas[0].send("100000 0.01"), until=3)
    reads = await joined([replicas[0], replicas[1]], cut.task_id)
    canceled = await replicas[1].cancel(cut.task_id)
    assert canceled.status.state == CANCELED
    for reply in await asyncio.gather(*reads):
        assert reply.state == CANCELED
    kept = await replicas[0].get(cut.task_id)
    assert kept.status.state == CANCELED
    with pytest.raises(TaskNotCancelableError):
        await replicas[0].cancel(cut.task_id)


@EVERY_STORE
async def test_a_cancel_where_the_agent_runs_reaches_the_clients_elsewhere(replicas, go):
    go.touch()
    cut = await read(replicas[0].send("100000 0.01"), until=3)
    [reading] = await joined([replicas[1]], cut.task_id)
    assert (await replicas[0].cancel(cut.task_id)).status.state == CANCELED
    assert (await reading).state == CANCELED


async def test_a_cancel_that_is_meant_for_the_task_before_spares_the_next_one(replicas, go):
    go.touch()
    first = await read(replicas[0].send("2 0"))
    go.unlink()
    second = await read(replicas[0].send("100 0.01"), until=3)
    with pytest.raises(TaskNotCancelableError):
        await replicas[1].cancel(first.task_id)
    [reading] = await joined([replicas[1]], second.task_id)
    go.touch()
    assert (await reading).text == said(100)


async def test_a_task_whose_process_is_killed_fails_and_no_client_hangs(replicas, go):
    go.touch()
    cut = await read(replicas[0].send("100000 0.01"), until=5)
    reads = await joined([replicas[1], replicas[1]], cut.task_id)
    await replicas.processes[0].kill()
    replies = await asyncio.wait_for(asyncio.gather(*reads), 100)
    kept = await replicas[1].get(cut.task_id)
    for reply in replies:
        assert reply.state == FAILED
        assert "process" in reply.said
        assert reply.text == text_of(kept)
    assert said(100000).startswith(replies[0].text)
    assert len(replies[0].text.split()) >= 5
    with pytest.raises(UnsupportedOperationError):
        await read(replicas[1].join(cut.task_id))


async def test_a_client_that_only_polls_learns_that_the_process_was_killed(replicas, go):
    go.touch()
    cut = await read(replicas[0].send("3 0 hang"), until=3)
    assert (await replicas[1].get(cut.task_id)).status.state == WORKING
    await replicas.processes[0].kill()
    while (await replicas[1].get(cut.task_id)).status.state == WORKING:
        await asyncio.sleep(0.05)
    assert (await replicas[1].get(cut.task_id)).status.state == FAILED


async def test_an_agent_that_is_silent_for_long_is_not_taken_for_dead(replicas, go):
    go.touch()
    cut = await read(replicas[0].send("3 2.5"), until=1)
    [reading] = await joined([replicas[1]], cut.task_id)
    reply = await reading
    assert (reply.text, reply.state) == (said(3), DONE)


@EVERY_STORE
async def test_a_task_that_asks_goes_on_in_another_process(replicas, calls, go):
    go.touch()
    asked = await read(replicas[0].send("2 0 ask"))
    assert (asked.text, asked.state) == (said(2), ASKING)
    [waiting] = await joined([replicas[0]], asked.task_id)
    await asyncio.sleep(2)  # longer than a process may be silent while it works
    answered = await read(replicas[1].send("3 0", task=asked, message_id="m2"))
    assert answered.state == DONE
    assert (await waiting).state == DONE
    assert calls() == 2
    assert await users_messages(replicas[0], asked) == ["m", "m2"]


async def users_messages(agent: Agent, reply: Reply) -> list[str]:
    task = await agent.get(reply.task_id)
    return [each.message_id for each in task.history if each.role == Role.ROLE_USER]


@pytest.mark.parametrize("fault", ["raise", "message"])
async def test_an_agent_that_raises_or_yields_another_type_fails_its_task(replicas, go, fault):
    cut = await read(replicas[0].send(f"30 0.01 {fault}"), until=2)
    [reading] = await joined([replicas[1]], cut.task_id)
    go.touch()
    reply = await reading
    assert (reply.text, reply.state) == (said(30), FAILED)
    kept = await replicas[1].get(cut.task_id)
    assert (text_of(kept), kept.status.state) == (said(30), FAILED)


@EVERY_STORE
async def test_a_task_of_another_user_is_not_found(replicas, go):
    cut = await read(replicas[0].send("100 0.01"), until=2)
    for mallory in (replicas.agent(0, "mallory"), replicas.agent(1, "mallory")):
        for attempt in (
            mallory.get(cut.task_id),
            mallory.cancel(cut.task_id),
            read(mallory.join(cut.task_id)),
            read(mallory.send("1 0", task=cut)),
        ):
            with pytest.raises(TaskNotFoundError):
                await attempt
        listed = await mallory.client.list_tasks(ListTasksRequest())
        assert list(listed.tasks) == []
    [reading] = await joined([replicas[1]], cut.task_id)
    go.touch()
    assert (await reading).text == said(100)


async def test_a_task_that_does_not_exist_is_not_found(replicas):
    for task_id in ("nope", "x" * 300, "a\nb", "../x", "*"):
        for attempt in (
            replicas[0].get(task_id),
            read(replicas[0].join(task_id)),
            replicas[0].cancel(task_id),
        ):
            with pytest.raises(TaskNotFoundError):
                await attempt


async def test_two_messages_for_one_task_at_once_both_arrive(replicas, calls, go):
    go.touch()
    asked = await read(replicas[0].send("1 0 ask"))
    await asyncio.gather(
        read(replicas[0].send("1 0 ask", task=asked, message_id="m2")),
        read(replicas[1].send("1 0 ask", task=asked, message_id="m3")),
    )
    assert sorted(await users_messages(replicas[0], asked)) == ["m", "m2", "m3"]
    assert calls() == 3


async def test_a_client_that_joins_after_the_end_is_told_so_and_gets_the_task_whole(
    replicas, go
):
    """The protocol has no subscription to a task that has ended."""
    go.touch()
    done = await read(replicas[0].send("5 0"))
    for replica in (replicas[0], replicas[1]):
        with pytest.raises(UnsupportedOperationError):
            await read(replica.join(done.task_id))
        kept = await replica.get(done.task_id)
        assert (text_of(kept), kept.status.state) == (said(5), DONE)


async def test_a_task_that_expires_while_its_client_is_away_is_not_found(start, stack):
    replicas = Replicas([await start(APP, TTL="1"), await start(APP, TTL="1")], stack)
    done = await read(replicas[0].send("1 0"))
    with pytest.raises(TaskNotFoundError):
        while True:
            await replicas[1].get(done.task_id)
            await asyncio.sleep(0.05)
    with pytest.raises(TaskNotFoundError):
        await read(replicas[1].join(done.task_id))
