"""Which tasks a page of A2A's `ListTasks` has. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from a2a.types.a2a_pb2 import ListTasksRequest
from a2a.utils.constants import DEFAULT_LIST_TASKS_PAGE_SIZE
from a2a.utils.errors import InvalidParamsError
from a2a.utils.task import (
    ListTasksCursor,
    decode_list_tasks_cursor,
    decode_page_token,
    encode_list_tasks_cursor,
)

from streamstores.integrations._a2a_log import TaskSummary

__all__ = ["TaskPage", "page_of"]


class TaskPage(NamedTuple):
    """A part of a list of tasks."""

    task_ids: list[str]
    total_size: int
    """The number of tasks on all pages."""
    page_size: int
    next_page_token: str
    """Empty on the last page."""


def page_of(tasks: Mapping[str, TaskSummary], params: ListTasksRequest) -> TaskPage:
    """The page that `params` asks for, newest first. `tasks` are those of one owner, by id.

    A page begins after the last task of the page before, so the token stays valid if that task
    is deleted. Raises `InvalidParamsError` for a token that cannot be one.
    """
    cursors = [
        ListTasksCursor(timestamp_ns=summary.updated_ns, task_id=task_id)
        for task_id, summary in tasks.items()
        if _is_wanted(summary, params)
    ]
    cursors.sort(key=ListTasksCursor.sort_key, reverse=True)
    start = _start(cursors, params.page_token) if params.page_token else 0
    size = params.page_size or DEFAULT_LIST_TASKS_PAGE_SIZE
    page = cursors[start : start + size]
    is_last = start + size >= len(cursors)
    token = "" if is_last else encode_list_tasks_cursor(page[-1])
    return TaskPage([each.task_id for each in page], len(cursors), size, token)


def _is_wanted(summary: TaskSummary, params: ListTasksRequest) -> bool:
    if params.context_id and summary.context_id != params.context_id:
        return False
    if params.status and summary.state != params.status:
        return False
    if params.HasField("status_timestamp_after"):
        earliest = params.status_timestamp_after.ToNanoseconds()
        return summary.updated_ns is not None and summary.updated_ns >= earliest
    return True


def _start(cursors: list[ListTasksCursor], token: str) -> int:
    """Where the page begins in the sorted list."""
    after = decode_list_tasks_cursor(token)
    if after is not None:
        return sum(each.sort_key() >= after.sort_key() for each in cursors)
    # Earlier versions of the SDK name the first task of the page instead.
    first = decode_page_token(token)
    for index, each in enumerate(cursors):
        if each.task_id == first:
            return index
    raise InvalidParamsError(f"Invalid page token: {token}")
