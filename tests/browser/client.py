"""The JavaScript client in a page, driven by a test."""

from __future__ import annotations

from itertools import count
from typing import Any

from playwright.async_api import Page

_prompts = (f"prompt {n}" for n in count(1))

POLL_MS = 10
TIMEOUT_MS = 60_000

_CREATE = """async ([module, { shared, ...options }]) => {
  const { Stream } = await import(module);
  window.statuses = [];
  window.events = [];
  window.stream = new Stream({
    backoff: 20,
    onEvent: (event) => window.events.push(event),
    ...options,
    ...(shared && { storage: localStorage }),
  });
  window.unsubscribe = stream.subscribe(({ status }) => {
    if (status !== window.statuses.at(-1)) window.statuses.push(status);
  });
}"""

_SNAPSHOT = """() => {
  const { error, ...rest } = stream.getSnapshot();
  return { ...rest, error: error && { code: error.code, message: error.message } };
}"""


class Client:
    """A `Stream` at `window.stream` of a page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.prompt = next(_prompts)

    async def create(self, module: str = "/plain/stream.js", **options: Any) -> Client:
        options.setdefault("endpoint", "/plain/stream")
        await self.page.evaluate(_CREATE, [module, options])
        return self

    async def send(self) -> None:
        """Send a prompt of its own."""
        await self.call("send", self.prompt)

    async def call(self, method: str, *args: Any) -> None:
        """Call a method without waiting for its promise."""
        await self.page.evaluate("([name, args]) => void stream[name](...args)", [method, args])

    async def ask(self, method: str, *args: Any) -> Any:
        """Call a method and wait for its promise."""
        return await self.page.evaluate(
            "([name, args]) => stream[name](...args)", [method, args]
        )

    async def until(self, condition: str, argument: Any = None) -> None:
        """Wait until an expression over `stream` and `it`, the argument, is true."""
        await self.page.wait_for_function(
            f"(it) => {condition}", arg=argument, polling=POLL_MS, timeout=TIMEOUT_MS
        )

    async def until_status(self, status: str) -> None:
        await self.until("stream.status === it", status)

    async def until_offset(self, offset: int) -> None:
        await self.until("stream.offset === it", offset)

    async def snapshot(self) -> dict[str, Any]:
        snapshot: dict[str, Any] = await self.page.evaluate(_SNAPSHOT)
        return snapshot

    async def text(self) -> str:
        text: str = await self.page.evaluate("stream.text")
        return text

    async def statuses(self) -> list[str]:
        statuses: list[str] = await self.page.evaluate("statuses")
        return statuses
