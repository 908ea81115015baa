"""What a process holds: tasks, threads, descriptors, memory, and the tables inside a store."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

CONTAINERS = (list, set, deque, Mapping)


def holdings(*roots: object) -> dict[str, int]:
    """Counts of tasks, threads and descriptors, and the length of every table that can be
    reached from the roots through objects of the package."""
    gc.collect()
    counts = {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "descriptors": descriptors(),
    }
    for root in roots:
        for name, size in _tables(root, type(root).__name__, set()):
            counts[name] = counts.get(name, 0) + size
    return counts


def descriptors() -> int:
    """How many files and sockets this process has open; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0


def sockets() -> int:
    """How many of the descriptors are sockets, that is, how many connections there are."""
    folder = Path("/proc/self/fd")
    found = 0
    for name in os.listdir(folder) if folder.exists() else ():
        with suppress(OSError):  # the descriptor of the listing itself is closed by now
            found += os.readlink(folder / name).startswith("socket:")
    return found


def resident_bytes() -> int:
    """The memory of this process; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _tables(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, int]]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, CONTAINERS):
        yield name, len(value)
        inside = list(value.values()) if isinstance(value, Mapping) else list(value)
        for each in inside:
            yield from _tables(each, f"{name}[]", seen)
    elif type(value).__module__.startswith("streamstores"):
        for attribute, each in _attributes(value):
            yield from _tables(each, f"{name}.{attribute}", seen)


def _attributes(value: object) -> Iterator[tuple[str, object]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)
