"""What a user sees of a stream: its status, its named events, and why it failed."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

_KEEPS_ITS_ID = frozenset({401, 407, 416})


class Status(str, Enum):
    """The state of a `Stream`. Each member equals the string of its value."""

    IDLE = "idle"
    """Nothing has been sent yet, or `abort` let go of the stream."""
    STREAMING = "streaming"
    """A prompt was sent, or an answer is being read."""
    RECONNECTING = "reconnecting"
    """On the way to a stream that exists already: after a cut, `attach` or `resume`."""
    STOPPED = "stopped"
    """The stream was stopped, here or elsewhere; `resume` continues it."""
    DISCONNECTED = "disconnected"
    """Every attempt failed; the server may well have gone on. `resume` tries again."""
    DONE = "done"
    ERROR = "error"
    """The stream failed, or the server refused it; `Stream.error` says why."""

    def __str__(self) -> str:
        return self.value


class StreamEvent(NamedTuple):
    """A named event of the stream: `usage`, `tool_call`, or a name that the model chose."""

    name: str
    data: str
    offset: int
    """The byte offset after the event."""


class StreamError(Exception):
    """Why a stream is not done: the server refused it, it failed, or it is out of reach.

    `code` is the server's (`not_found`, `forbidden`, …) or one of these:

    - `stream_error`: the model failed;
    - `disconnected`: every attempt failed;
    - `not_kept`: the connection broke, and this handler keeps no answers to go on from;
    - `http_error`: a refusal without a code of its own;
    - `bad_answer`: the answer is not one of a chat handler.

    `status` is the HTTP status of a refusal, otherwise None.
    """

    def __init__(self, message: str, *, code: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    @property
    def forgets_id(self) -> bool:
        """Whether the server refused the stream itself, so that a stored id is of no use.

        False for 401 and 407, because the id is good again after a login, and for 416,
        because the stream can still be read from its start.
        """
        refused = self.status is not None and 400 <= self.status < 500
        return refused and self.status not in _KEEPS_ITS_ID
