"""What the package's log records have besides their text: the name of an event, and a label
in place of a stream's id.

Each record has `event`, a stable name such as `run.lost`, and some have `stream`, so that
filters, formatters and alarms need not parse texts:

    logging.Formatter("%(levelname)s %(event)s %(message)s", defaults={"event": "-"})

An id may be all that it takes to read a stream, so no record has one. `label` gives the same
label for the same id in every process; `show_stream_ids()` makes it the id itself.
`docs/telemetry.md` lists the events.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

__all__ = ["event", "label", "reason", "show_stream_ids"]

_LABEL_DIGITS = 12
# As the messages of errors name a stream: the `repr` of its id.
_NAMED = re.compile(r"""(stream |append to |appends to |while )('(?:[^'\\]|\\.)*'|"[^"]*")""")

_shows_ids = False


def show_stream_ids(is_shown: bool = True) -> None:
    """Log the ids of streams from now on, or no longer. They are not logged by default."""
    global _shows_ids  # noqa: PLW0603  # one for the process, as logging is
    _shows_ids = is_shown


def label(stream_id: str) -> str:
    """What log records call the stream: `#` and 12 hexadecimal digits of the SHA-256 of its id,
    or the id itself after `show_stream_ids()`.

    A label does not tell a random id. It does tell an id that can be guessed, to a reader who
    guesses it.
    """
    if _shows_ids:
        return stream_id
    return "#" + sha256(stream_id.encode(errors="replace")).hexdigest()[:_LABEL_DIGITS]


def event(name: str, stream_id: str | None = None) -> dict[str, Any]:
    """The `extra` of a log call: the event's name, and the label of the stream it is about."""
    if stream_id is None:
        return {"event": name}
    return {"event": name, "stream": label(stream_id)}


def reason(exc: BaseException) -> str:
    """The text of an error for a log record, with no id of a stream in it."""
    text = str(exc) or type(exc).__name__
    return text if _shows_ids else _NAMED.sub(r"\1(id hidden)", text)
