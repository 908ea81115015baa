"""The events of one OpenAI response: numbered, and complete from `response.created` to the end.

No I/O, and no third-party package. The events:
https://developers.openai.com/api/reference/resources/responses/streaming-events
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from streamstores._sse import EventParser, ServerSentEvent

__all__ = ["ENDS", "ResponseEvents", "as_sent", "encoded", "event_of", "response_object"]

Event = dict[str, Any]

ENDS = frozenset(
    {"response.completed", "response.failed", "response.incomplete", "response.cancelled"}
)
"""The types of events after which there is none."""

_BEGINS = frozenset({"response.created", "response.queued", "response.in_progress"})
_ECHOED = ("instructions", "max_output_tokens", "metadata", "previous_response_id")
_DEFAULTS: Mapping[str, Any] = {
    "parallel_tool_calls": True,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
}


def response_object(response_id: str, body: Mapping[str, Any], created_at: int) -> Event:
    """The response to the request `body`, in progress and without output."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": bool(body.get("background")),
        "error": None,
        "incomplete_details": None,
        "model": body.get("model") or "",
        "output": [],
        **{name: body.get(name) for name in _ECHOED},
        **{name: body.get(name, default) for name, default in _DEFAULTS.items()},
    }


def as_sent(event: Event) -> ServerSentEvent:
    """The event as it is stored and sent. Its `id:` is its number, by which it is found."""
    return ServerSentEvent(event["type"], encoded(event), str(event["sequence_number"]))


def encoded(value: Event) -> str:
    """The JSON of an event or a response. Raises `TypeError` and `ValueError`."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # A model's text may hold half of a surrogate pair, which UTF-8 cannot encode.
    return text.encode(errors="replace").decode()


def event_of(data: bytes) -> Event:
    """The event in a stored record."""
    (sent,) = EventParser().feed(data)
    return cast("Event", json.loads(sent.data))


class ResponseEvents:
    """What has been said in one response, and the numbers of the events that say it.

    `begin`, `of` and `end` make the events of a new response. `note` reads those of a stored
    one, after which `of` and `end` continue it.
    """

    def __init__(self, response: Event) -> None:
        self.response = response
        """The response as the last event that has it describes it."""
        self.last_number = -1
        self.has_ended = False
        self._items: dict[int, Event] = {}
        # Apart from the items, because to add each delta to a text would copy the text.
        self._texts: dict[int, list[str]] = {}
        self._open: int | None = None
        """The index of the message that is made of text that the source yields."""

    @property
    def text(self) -> str:
        """The text that has been said so far, of all messages."""
        parts = [part for item in self._output() for part in item.get("content") or ()]
        return "".join(part.get("text", "") for part in parts)

    def begin(self) -> list[Event]:
        """The events with which a response begins."""
        kinds = ("response.created", "response.in_progress")
        return [self._new(kind, response=self.response) for kind in kinds]

    def of(self, piece: Any) -> Iterator[Event]:
        """The events of what a source yielded: text of the answer, an event as a dict, or an
        event of the package `openai`. Raises `TypeError` and `ValueError`."""
        if isinstance(piece, str):
            yield from self._say(piece)
            return
        event = _as_dict(piece)
        kind = event.get("type")
        if not isinstance(kind, str):
            raise TypeError("an event of a response has a text as its type")
        # The response began before its source did, with an id and a number of its own.
        if kind in _BEGINS:
            return
        yield from self._close_message()
        if kind in ENDS:
            own = {name: self.response[name] for name in ("id", "created_at", "background")}
            status = kind.removeprefix("response.")
            given: Event = event.get("response") or {}
            event["response"] = {**self.snapshot(status=status), **given, **own}
        yield self._numbered(event)

    def end(self) -> Iterator[Event]:
        """The events that a source left out: a completed response of all that was said."""
        if not self.has_ended:
            yield from self._close_message()
            yield self.ended("response.completed", status="completed")

    def ended(self, kind: str, **changes: Any) -> Event:
        """An event with which the response ends as it is."""
        return self._new(kind, response=self.snapshot(**changes))

    def snapshot(self, **changes: Any) -> Event:
        """The response with what has been said so far."""
        return {**self.response, "output": self._output(), **changes}

    def note(self, event: Event) -> None:
        """Take notice of an event of this response."""
        self.last_number = event["sequence_number"]
        kind, index = event["type"], event.get("output_index", 0)
        if kind == "response.created":
            self.response = event["response"]
        elif kind in ENDS:
            self.has_ended = True
            self.response = event["response"]
            self._items = dict(enumerate(self.response.get("output") or ()))
            self._texts.clear()
        elif kind == "response.output_item.added":
            self._items[index] = event["item"]
            self._open = index if event["item"].get("id") == self._message_id(index) else None
        elif kind == "response.output_item.done":
            self._items[index] = event["item"]
            self._texts.pop(index, None)
            self._open = None
        elif kind == "response.output_text.delta":
            self._texts.setdefault(index, []).append(event["delta"])

    def _say(self, delta: str) -> Iterator[Event]:
        """Add text to the open message, or to a new one."""
        if self._open is None:
            index = max(self._items, default=-1) + 1
            item: Event = {
                "id": self._message_id(index),
                "type": "message",
                "role": "assistant",
                "status": "in_progress",
                "content": [],
            }
            yield self._new("response.output_item.added", output_index=index, item=item)
            yield self._of_message("response.content_part.added", part=_text_part(""))
        yield self._of_message("response.output_text.delta", delta=delta, logprobs=[])

    def _close_message(self) -> Iterator[Event]:
        """End the message that `_say` has begun."""
        if self._open is None:
            return
        index = self._open
        part = _text_part("".join(self._texts.get(index, ())))
        yield self._of_message("response.output_text.done", text=part["text"], logprobs=[])
        yield self._of_message("response.content_part.done", part=part)
        item = {**self._items[index], "status": "completed", "content": [part]}
        yield self._new("response.output_item.done", output_index=index, item=item)

    def _message_id(self, index: int) -> str:
        return f"msg_{self.response['id'].removeprefix('resp_')}_{index}"

    def _of_message(self, kind: str, **fields: Any) -> Event:
        assert self._open is not None
        item_id = self._message_id(self._open)
        place = {"item_id": item_id, "output_index": self._open, "content_index": 0}
        return self._new(kind, **place, **fields)

    def _output(self) -> list[Event]:
        return [self._item(index) for index in sorted(self._items)]

    def _item(self, index: int) -> Event:
        """An item, with the text that an unfinished message has so far."""
        item = self._items[index]
        if index not in self._texts:
            return item
        return {**item, "content": [_text_part("".join(self._texts[index]))]}

    def _new(self, kind: str, **fields: Any) -> Event:
        return self._numbered({"type": kind, **fields})

    def _numbered(self, event: Event) -> Event:
        if self.has_ended:
            raise ValueError(f"the source yielded {event['type']!r} after the response's end")
        event = {**event, "sequence_number": self.last_number + 1}
        self.note(event)
        return event


def _text_part(text: str) -> Event:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _as_dict(piece: Any) -> Event:
    to_dict = getattr(piece, "to_dict", None)
    found = to_dict(mode="json") if to_dict is not None else piece
    if not isinstance(found, Mapping):
        raise TypeError(
            f"a source yields str or events of a response, not {type(piece).__name__}"
        )
    return dict(cast("Mapping[str, Any]", found))
