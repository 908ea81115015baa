"""The package with one line changed, which the histories or the contract's checks must notice.

    python -m tests.faults.broken_builds              every build
    python -m tests.faults.broken_builds redis s3     those of these stores

Each build is a copy of the package, in processes of its own. First come as many histories as
CI runs, from seed 0 on, and if they all have an explanation, every check of the contract. The
stores of `tests/contract/broken` are wrong from outside; these are wrong where a maintainer
would get it wrong.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import streamstores
from tests.services import postgres, redis, s3

SEEDS = {"s3": 29}
"""Of CI: 17 on each change, and 40 more in the long run, 12 on S3."""
DEFAULT_SEEDS = 57
PACKAGE = Path(streamstores.__file__).parent


ONLY_CHECKS = frozenset(
    {
        "records are cut",
        "the appends of a group get the first one's result",
        "a repeated stop is refused",
    }
)
"""What no history notices: its records are short, do not fill a group, and it stops once."""


class Build(NamedTuple):
    """A line of the package, and what stands there instead."""

    store: str
    file: str
    line: str
    instead: str
    what: str


_LESS_PATIENCE = Build(
    "every",
    "conformance/assertions.py",
    "whole_check: float = 180.0",
    "whole_check: float = 45.0",
    "what hangs is noticed sooner",
)
_MEMORY = "backends/memory.py"
_APPEND_SQL, _CREATE_SQL = "backends/_postgres/append.sql", "backends/_postgres/create.sql"
_GROUPS = "backends/_postgres/append_groups.py"
_APPEND_LUA, _CREATE_LUA = "backends/_redis/append.lua", "backends/_redis/create.lua"
_TRANSACTIONS, _COMMITS = "backends/_sqlite/transactions.py", "backends/_sqlite/group_commit.py"
_STREAMS, _CHAIN = "backends/_s3/known_streams.py", "backends/_s3/segment_chain.py"
_QUEUES = "backends/_s3/commit_queues.py"

BUILDS = [
    Build("memory", _MEMORY,
        "if version is not None and (type(version) is not int or version != before.version):",
        "if version is not None and (type(version) is not int or version > before.version):",
        "a version that has passed is taken"),
    Build("memory", "mutations.py",
        "if mutation.at is not None and mutation.at != info.tail:",
        "if mutation.at is not None and mutation.at > info.tail:",
        "an append at an earlier offset is taken"),
    Build("memory", "mutations.py",
        "tail, version = tail + size, version + 1",
        "tail, version = tail + size, version + bool(size)",
        "a heartbeat leaves the version"),
    Build("memory", _MEMORY,
        "_extend(stream, mutation.chunks, before.tail)",
        "_extend(stream, mutation.chunks, info.tail)",
        "records get offsets beyond the tail"),
    Build("memory", _MEMORY,
        "raise StreamExists(f\"stream {stream_id!r} exists\", existing.info)",
        "return existing.info",
        "a second creation succeeds"),
    Build("sqlite", _TRANSACTIONS,
        "if version == self._version:",
        "if self._version != -1:",
        "what other processes have committed is not seen"),
    Build("sqlite", _TRANSACTIONS,
        "rows.append((key, end, chunk, None))",
        "rows.append((key, end, chunk[:64], None))",
        "records are cut"),
    Build("sqlite", _COMMITS,
        "for queued, outcome in zip(batch, outcomes, strict=True):",
        "for queued, outcome in zip(batch, reversed(outcomes), strict=True):",
        "callers of one commit get each other's results"),
    Build("sqlite", "backends/_sqlite/operations.py",
        "writer.know(StreamRow(key, after, changed))",
        "pass",
        "the writer knows the stream as it was before its own append"),
    Build("sqlite", "mutations.py",
        "if mutation.version is not None and mutation.version != info.version:",
        "if mutation.version is not None and mutation.version > info.version:",
        "a version that has passed is taken"),
    Build("sqlite", "backends/_sqlite/queries.py",
        "if offset > stream.tail:",
        "if False:",
        "a read beyond the tail is no error"),
    Build("postgres", _APPEND_SQL,
        "AND ($4::bigint IS NULL OR version = $4)",
        "AND ($4::bigint IS NULL OR version >= $4)",
        "a version that has passed is taken"),
    Build("postgres", _APPEND_SQL,
        "AND ($3::bigint IS NULL OR tail = $3)",
        "AND ($3::bigint IS NULL OR tail >= $3)",
        "an append at an earlier offset is taken"),
    Build("postgres", _APPEND_SQL,
        "version = version + 1,",
        "version = version + ($2::bigint > 0)::int,",
        "a heartbeat leaves the version"),
    Build("postgres", _APPEND_SQL,
        "OR state = 'stopped' AND $5 = 'streaming'",
        "OR state = 'stopped'",
        "a stopped stream takes records"),
    Build("postgres", _CREATE_SQL,
        "ON CONFLICT (id) DO NOTHING",
        "ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version",
        "two creations of one id succeed"),
    Build("postgres", _GROUPS,
        "queued.future.set_result(applied.get(number))",
        "queued.future.set_result(applied.get(0))",
        "the appends of a group get the first one's result"),
    Build("postgres", "backends/_postgres/delete.sql",
        "UPDATE {streams} SET id = NULL, due_at = NULL",
        "UPDATE {streams} SET state = 'done'",
        "a deleted stream is there, and done"),
    Build("redis", _APPEND_LUA,
        "or (version ~= '' and version ~= info[VERSION])",
        "or (version ~= '' and tonumber(version) > tonumber(info[VERSION]))",
        "a version that has passed is taken"),
    Build("redis", _APPEND_LUA,
        "or (at ~= '' and at ~= tail)",
        "or (at ~= '' and tonumber(at) > tonumber(tail))",
        "an append at an earlier offset is taken"),
    Build("redis", _APPEND_LUA,
        "local is_allowed = state == 'streaming'",
        "local is_allowed = state ~= 'done'",
        "a stopped or failed stream takes records"),
    Build("redis", _APPEND_LUA,
        "info[VERSION] = whole(info[VERSION] + 1)",
        "info[VERSION] = whole(info[VERSION] + (has_chunks and 1 or 0))",
        "a heartbeat leaves the version"),
    Build("redis", _CREATE_LUA,
        "if info then",
        "if info and info[STATE] ~= 'stopped' then",
        "a creation replaces a stopped stream"),
    Build("redis", "backends/_redis/delete.lua",
        "redis.call('UNLINK', INFO_KEY, RECORDS_KEY)",
        "redis.call('UNLINK', RECORDS_KEY)",
        "a deleted stream lacks its records and is still there"),
    Build("s3", "backends/_s3/bucket.py",
        'condition = {"IfNoneMatch": "*"} if absent else self._match_condition(match)',
        "condition = {} if absent else self._match_condition(match)",
        "a segment replaces another writer's"),
    Build("s3", _CHAIN,
        "if found.nonce == block.nonce:",
        "if found.number == block.number:",
        "another writer's segment is taken for one's own"),
    Build("s3", _QUEUES,
        "elif has_looked:  # a refusal by what was known before the call could be stale",
        "else:",
        "a request is refused by what was known before it"),
    Build("s3", _STREAMS,
        "return await self._advance(known)",
        "return known",
        "a look asks for nothing"),
    Build("s3", _QUEUES,
        "self.chunks += request.chunks",
        "self.chunks = request.chunks",
        "of the appends of a batch only the last is written"),
    Build("s3", _QUEUES,
        "elif not changes_nothing(self.info, request):",
        "else:",
        "a repeated stop is refused"),
]  # fmt: skip


class Verdict(NamedTuple):
    """What noticed a build, after how long; None: nothing did."""

    by: str | None
    seconds: float


def run(build: Build, url: str) -> Verdict:
    """Run the histories and then the checks against a build, up to the first that notices."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder) / "streamstores")
        change(Path(folder) / "streamstores" / build.file, build)
        change(Path(folder) / "streamstores" / _LESS_PATIENCE.file, _LESS_PATIENCE)
        by = by_histories(folder, url, build.store) or by_checks(folder, url)
    return Verdict(by, time.monotonic() - begin)


def by_histories(folder: str, url: str, store: str) -> str | None:
    """The first history without an explanation."""
    seeds = str(SEEDS.get(store, DEFAULT_SEEDS))
    run = _python(folder, "-m", "streamstores.conformance.histories", url, "--seeds", seeds)
    if not run.returncode:
        return None
    seed = re.search(r"^seed (\d+)", run.stdout, re.MULTILINE)
    return f"history {seed[1]}" if seed else f"its opening: {run.stderr.splitlines()[-1]}"


def by_checks(folder: str, url: str) -> str | None:
    """The checks of the contract that fail."""
    run = _python(folder, "-c", "from streamstores.cli import main; main()", "check", url)
    if not run.returncode:
        return None
    failed = re.findall(r"^ +(clause\S+)$", run.stdout, re.MULTILINE)
    return f"{len(failed)} checks, such as {failed[0]}" if failed else run.stdout[-200:]


def change(path: Path, build: Build) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(build.line) == 1, f"{build.file} has not one line {build.line!r}"
    path.write_text(text.replace(build.line, build.instead), encoding="utf-8")


def _python(folder: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": folder},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@contextmanager
def place(store: str) -> Iterator[str]:
    """The URL of a fresh store."""
    if store == "memory":
        yield "memory://"
    elif store == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/streams.db"
    elif store == "postgres":
        with postgres.fresh_schema(postgres.shared()) as url:
            yield url
    elif store == "redis":
        yield redis.with_own_prefix(redis.shared())
    else:
        yield s3.shared().url()


def main(stores: list[str]) -> int:
    """1 if a build was not noticed."""
    missed = 0
    for build in BUILDS:
        if stores and build.store not in stores:
            continue
        with place(build.store) as url:
            verdict = run(build, url)
        missed += verdict.by is None
        by = verdict.by or "NOTHING"
        print(f"{build.store:<9} {build.what}: {by} ({verdict.seconds:.0f} s)", flush=True)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
