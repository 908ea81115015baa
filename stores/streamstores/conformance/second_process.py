"""A real second process that opens its own store and is driven by calls from the first.

Each message is a line on the child's stdin or stdout: a pickled tuple in base64. Pickle is
safe here, because both ends are this package and the parent started the child.
"""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import sys
from types import MappingProxyType
from typing import Any, cast

from streamstores import errors
from streamstores._time_limits import in_time
from streamstores.store import Page, StreamInfo

__all__ = ["SecondProcess", "SecondProcessEnded", "from_line", "plain", "to_line"]

_START_SECONDS = 120.0
_EXIT_SECONDS = 15.0
_LINE_BYTES = 256 * 1_048_576


def to_line(message: object) -> bytes:
    return base64.b64encode(pickle.dumps(message)) + b"\n"


def from_line(line: bytes) -> Any:
    return pickle.loads(base64.b64decode(line))


def plain(value: Any) -> Any:
    """The value in a form that can be pickled: a mapping proxy, for example, cannot."""
    if isinstance(value, Page):
        return value._replace(info=plain(value.info))
    if isinstance(value, StreamInfo):
        return value._replace(attributes=dict(value.attributes))
    if isinstance(value, MappingProxyType):
        return dict(cast("MappingProxyType[str, str]", value))
    return value


class SecondProcessEnded(RuntimeError):
    """The process ended before it answered, so the call may have done its work or not."""

    def __init__(self) -> None:
        super().__init__("the second process ended")


class SecondProcess:
    """The parent's handle on the second process; an async context manager.

    `await process.call("append", stream_id, b"x", at=3)` calls that method of the child's
    store. An error of the store is raised here as the same class, with its attributes.
    `"follow"` returns the records of a stream once it has ended; `"bump"` appends chunks one
    after another at the current tail and returns how often it met a `Conflict`.
    """

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._process: asyncio.subprocess.Process
        self._reader: asyncio.Task[None]

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return await self.start(name, *args, **kwargs)

    def start(self, name: str, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Send the call now, and return a future of its answer."""
        if self._reader.done():
            raise SecondProcessEnded
        self._count += 1
        answer = self._calls[self._count] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(to_line((self._count, name, args, kwargs)))
        return answer

    async def kill(self) -> None:
        """Kill the process with SIGKILL, as a crash would, without any cleanup."""
        self._process.kill()
        await self._process.wait()

    async def __aenter__(self) -> SecondProcess:
        """Start the process and wait until it has opened its store."""
        module = "streamstores.conformance.second_process_main"
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, self._spec),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # The whole search path, so that a `module:callable` of a test folder is found in
            # the child too.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            limit=_LINE_BYTES,
        )
        self._reader = asyncio.get_running_loop().create_task(self._read_answers())
        try:
            await in_time(self.call("ready"), _START_SECONDS)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._process.stdin is not None
        # The end of its stdin lets the child close its store, as a process does that ends well.
        self._process.stdin.close()
        try:
            await in_time(self._process.wait(), _EXIT_SECONDS)
        except asyncio.TimeoutError:
            await self.kill()
        await self._reader
        for answer in self._calls.values():
            answer.cancel()

    async def _read_answers(self) -> None:
        """Pass each answer to its future until the process ends, then fail what is left."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            number, error, value = from_line(line)
            answer = self._calls.pop(number)
            # Cancelled by the check. The child does its work all the same, as a server would.
            if answer.done():
                continue
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(_error(error, value))
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(SecondProcessEnded())


def _error(name: str, described: tuple[str, dict[str, Any]]) -> Exception:
    text, attributes = described
    kind = getattr(errors, name, None)
    if kind is None:
        return RuntimeError(f"in the second process: {name}: {text}")
    # Built without __init__, whose arguments stayed in the other process.
    error: Exception = kind.__new__(kind)
    error.args = (text,)
    vars(error).update(attributes)
    return error
