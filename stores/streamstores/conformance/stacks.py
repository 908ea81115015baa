"""Where tasks and threads are at the moment, for the report of a check that hangs."""

from __future__ import annotations

import asyncio
import sys
import traceback
from types import CodeType, FrameType
from typing import Any

__all__ = ["task_stack", "thread_stack"]

_MAX_FRAMES = 8
_ASYNCIO = asyncio.__file__.removesuffix("__init__.py")


def task_stack(task: asyncio.Task[Any]) -> list[str]:
    """The awaiting functions of a suspended task, the innermost last.

    `Task.get_stack` shows only the outermost function of a suspended task, so this follows
    the chain of what each coroutine awaits. Functions of asyncio itself are left out.
    """
    places: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = _first_of(awaited, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            break  # a future, for example, has no frame
        if not frame.f_code.co_filename.startswith(_ASYNCIO):
            places.append(_place(frame.f_code, frame.f_lineno))
        awaited = _first_of(awaited, "cr_await", "gi_yieldfrom", "ag_await")
    return places[-_MAX_FRAMES:]


def thread_stack(ident: int | None) -> list[str]:
    """The running functions of a thread of this process, the innermost last."""
    frame: FrameType | None = sys._current_frames().get(ident or 0)  # pyright: ignore[reportPrivateUsage]
    walked = traceback.walk_stack(frame) if frame is not None else ()
    places = [_place(each.f_code, line) for each, line in walked]
    return places[:_MAX_FRAMES][::-1]


def _first_of(awaited: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(awaited, name, None))), None)


def _place(code: CodeType, line: int) -> str:
    return f"{code.co_filename}:{line} in {code.co_name}"
