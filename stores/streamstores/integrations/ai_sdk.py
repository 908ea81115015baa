"""The endpoints of the AI SDK's `useChat({ resume: true })`, on any store.

Written against `ai` 7 and `@ai-sdk/react` 4. The protocol:
https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol and
https://ai-sdk.dev/docs/ai-sdk-ui/chatbot-resume-streams
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any, cast

try:
    from starlette.responses import JSONResponse, Response
except ModuleNotFoundError as _missing_module:
    raise ImportError(
        f"streamstores.integrations.ai_sdk needs {_missing_module.name}: "
        'pip install "streamstores[http]"',
        name=_missing_module.name,
    ) from _missing_module

from streamstores._sse import encode_event
from streamstores.errors import InvalidRequest, StreamNotFound
from streamstores.http.resumable import AnySource, ResumableStreams, close_unread, iterate
from streamstores.integrations._pointers import REQUEST, RUNNING, Pointers
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["AISDKChats"]

_CHAT = "ai-sdk-chat/"
_ANSWER = "ai-sdk-answer/"
_DONE = b"data: [DONE]\n\n"
_HEADERS = {"x-vercel-ai-ui-message-stream": "v1"}

_CLAIM_ATTEMPTS = 20


class AISDKChats:
    """Chats whose running answer survives reloads, lost networks and dead processes.

        chats = AISDKChats(store)

        @app.post("/api/chat")
        async def post(request: Request):
            body = await request.json()
            return await chats.answer(body["id"], body, generate(body["messages"]))

        @app.get("/api/chat/{chat_id}/stream")
        async def resume(chat_id: str):
            return await chats.resume(chat_id)

        @app.post("/api/chat/{chat_id}/stop")
        async def stop(chat_id: str, request: Request):
            return await chats.stop(chat_id, await request.json())

    A client that can name a chat can read it. So authorise before you call, or put the user
    into the chat's name: `f"{user.id}/{chat_id}"`.

    A chat has at most one running answer. It is named in a small stream of its own, which
    changes by compare-and-set: of two requests for the same answer the first generates it
    and the second is sent the same, and a request for another answer stops the answer that
    runs. The options are those of `ResumableStreams`; `ttl` must be longer than an answer
    takes.
    """

    def __init__(self, store: StreamStore, *, ttl: float = 86_400.0, **options: Any) -> None:
        self._store = store
        self._pointers = Pointers(store, ttl)
        self.streams: ResumableStreams = ResumableStreams(
            store, ttl=ttl, ending=_ending, **options
        )

    async def answer(
        self, chat_id: str, body: Mapping[str, Any], source: AnySource
    ) -> Response:
        """Answer a POST of `useChat`, whose JSON is `body`.

        `source` yields UI message chunks: objects (`{"type": "text-delta", …}`), or the
        formatted events of another library. The `start` chunk, which names the message, and
        `[DONE]` are added if they are missing.

        A repeated POST for an answer that is running is sent that answer, and its source is
        closed unread. A POST for any other answer stops the answer that is running: a client
        that asks again has given it up.
        """
        try:
            answer_id, is_new = await self._claim(_pointer_id(chat_id), _digest(body))
        except InvalidRequest as exc:
            await close_unread(source)
            return _refusal(400, "invalid_request", str(exc))
        if is_new:
            chunks = _chunks(source, _last_part(answer_id))
            return await self.streams.response(answer_id, chunks, headers=_HEADERS)
        await close_unread(source)
        return await self.streams.replay(answer_id, headers=_HEADERS)

    async def resume(self, chat_id: str) -> Response:
        """Answer a GET of `useChat`: the running answer from its first chunk, or 204."""
        try:
            pointer = await self._store.info(_pointer_id(chat_id))
        except StreamNotFound:
            return Response(status_code=204)
        except InvalidRequest as exc:
            return _refusal(400, "invalid_request", str(exc))
        running = pointer.attributes[RUNNING]
        if not running:
            return Response(status_code=204)
        return await self.streams.replay(
            running, missing_status=204, only_live=True, headers=_HEADERS
        )

    async def stop(self, chat_id: str, body: Mapping[str, Any] | None = None) -> Response:
        """Stop the running answer, in whichever process it is generated.

        If `body` has a `streamId`, as the header `X-Stream-Id` of the answer's response or the
        id of its message said it, only that answer is stopped: a Stop that arrives late does
        not hit the next answer. Answers `{"stopped": true | false}`.
        """
        try:
            pointer = await self._store.info(_pointer_id(chat_id))
        except (StreamNotFound, InvalidRequest):
            return JSONResponse({"stopped": False})
        running = pointer.attributes[RUNNING]
        meant = (body or {}).get("streamId")
        is_meant = meant is None or _last_part(running) == _last_part(str(meant))
        if not running or not is_meant:
            return JSONResponse({"stopped": False})
        try:
            info = await self.streams.stop(running)
        except StreamNotFound:
            return JSONResponse({"stopped": False})
        return JSONResponse({"stopped": info.state is State.STOPPED})

    async def aclose(self) -> None:
        """As `ResumableStreams.aclose`; its `lifespan` is `chats.streams.lifespan`."""
        await self.streams.aclose()

    async def _claim(self, pointer_id: str, digest: str) -> tuple[str, bool]:
        """The answer that this request is for, and whether this request is to generate it."""
        for _ in range(_CLAIM_ATTEMPTS):
            pointer = await self._pointers.get(pointer_id)
            running = pointer.attributes[RUNNING]
            # Only while the answer runs: the user may ask the same again when it has ended, and
            # wants another answer then.
            if pointer.attributes[REQUEST] == digest and await self._pointers.is_live(running):
                return running, False
            # A new id for every answer. If it were derived from the request, a question that is
            # asked again would find its old answer.
            answer_id = f"{_ANSWER}{pointer_id[len(_CHAT) :]}/{secrets.token_urlsafe(16)}"
            if not await self._pointers.move(pointer, answer_id, digest):
                continue  # another request was first, and may be for the same answer
            # After the claim, not before: the request that lost the race must not stop the
            # answer of the winner.
            if running:
                with suppress(StreamNotFound):
                    await self.streams.stop(running)
            return answer_id, True
        raise InvalidRequest("too many requests for this chat at once")


def _pointer_id(chat_id: Any) -> str:
    if not isinstance(chat_id, str) or not chat_id:
        raise InvalidRequest("a chat's id is a text")
    return _CHAT + chat_id


def _last_part(answer_id: str) -> str:
    """The random part of an answer's id, by which its message is called."""
    return answer_id.rpartition("/")[2]


def _digest(body: Mapping[str, Any]) -> str:
    """What tells a repeated request from another one for the same chat."""
    asked = {name: body.get(name) for name in ("messages", "trigger", "messageId")}
    try:
        text = json.dumps(asked, sort_keys=True)
    except (TypeError, ValueError) as exc:
        raise InvalidRequest("the body is not JSON") from exc
    return hashlib.sha256(text.encode()).hexdigest()


async def _chunks(source: AnySource, message_id: str) -> AsyncGenerator[Any, None]:
    """The pieces of `source` with a `start` chunk that names the message, and without
    `[DONE]`, which is sent when the stream has ended."""
    is_first, text = True, _WithoutDone()
    pieces = iterate(source)
    try:
        async for piece in pieces:
            if isinstance(piece, (str, bytes)):
                event = piece if isinstance(piece, bytes) else piece.encode(errors="replace")
                if kept := text.take(event):
                    yield kept
            else:
                for each in _named(piece, message_id) if is_first else [piece]:
                    yield each
            is_first = False
        if text.rest:
            yield text.rest
    finally:
        await pieces.aclose()


class _WithoutDone:
    """Formatted events without `[DONE]`, at which the client would take the answer for
    complete. The pieces may be cut anywhere, as those of another server's response are."""

    def __init__(self) -> None:
        self.rest = b""
        """The end of what was taken, if it may be the beginning of `[DONE]`."""

    def take(self, piece: bytes) -> bytes:
        text = (self.rest + piece).replace(_DONE, b"")
        cut = next((n for n in range(len(_DONE) - 1, 0, -1) if text.endswith(_DONE[:n])), 0)
        self.rest = text[len(text) - cut :]
        return text[: len(text) - cut]


def _named(piece: Any, message_id: str) -> list[Any]:
    """The first piece as a `start` chunk that names the message, or behind one."""
    if not isinstance(piece, Mapping):
        return [piece]
    event = cast("Mapping[str, Any]", piece)
    if event.get("type") != "start":
        return [{"type": "start", "messageId": message_id}, piece]
    return [{"messageId": message_id, **event}]


def _ending(info: StreamInfo) -> bytes:
    if info.state is State.STOPPED:
        return encode_event(b'{"type": "abort"}') + _DONE
    if info.state is State.ERROR:
        error = {"type": "error", "errorText": info.error or "The answer failed."}
        return encode_event(json.dumps(error).encode()) + _DONE
    return _DONE


def _refusal(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": message, "code": code}, status)
