"""What an operator may do to a stream: stop it, let it expire, delete it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Union

from starlette.requests import Request
from starlette.responses import JSONResponse

from streamstores import logs
from streamstores.errors import InvalidRequest, StreamClosed, StreamNotFound
from streamstores.http._asgi.authorize import check_allowed
from streamstores.http._asgi.errors import HttpError
from streamstores.http._asgi.exchange import Exchange
from streamstores.http._asgi.requests import check_id, read_object
from streamstores.http._asgi.reserved import SAVED_REQUEST_ATTRIBUTE, SAVED_REQUEST_PREFIX
from streamstores.store import State, StreamInfo, StreamStore

__all__ = ["AuthorizeAction", "StreamActions"]

AuthorizeAction = Callable[[Request, str, str], Union[bool, Awaitable[bool]]]
"""`authorize_action(request, stream_id, action)`. Only `True` allows."""

_MAX_BODY_BYTES = 4096
_HEADER = "x-streamstores-monitor"

_log = logging.getLogger("streamstores.http")


class StreamActions:
    """The actions of one monitor: `{"action", "id", "createdAt", "ttl"}` as a JSON body.

    `createdAt` is that of the stream which the operator saw: a namesake that was created since
    is left alone (409). The check and a deletion are two steps, so a namesake that is created
    between the two is deleted.
    """

    def __init__(self, store: StreamStore, authorize: AuthorizeAction) -> None:
        self._store = store
        self._authorize = authorize
        self._actions: dict[str, Callable[[StreamInfo, Any], Awaitable[None]]] = {
            "stop": self._stop,
            "expire": self._expire,
            "delete": self._delete,
        }

    async def act(self, exchange: Exchange) -> None:
        """Do what the request asks for, and answer with an empty object."""
        _check_same_origin(exchange)
        fields = await read_object(exchange, _MAX_BODY_BYTES)
        stream_id = check_id(fields.get("id"), self._store.limits)
        if stream_id.startswith(SAVED_REQUEST_PREFIX):
            raise HttpError(400, "invalid_id", f"ids below {SAVED_REQUEST_PREFIX} are reserved")
        name = str(fields.get("action"))
        if name not in self._actions:
            names = ", ".join(self._actions)
            raise HttpError(400, "invalid_action", f"action is one of {names}")
        await check_allowed(self._authorize, exchange, stream_id, name)
        info = await self._store.info(stream_id)
        if info.created_at.isoformat() != fields.get("createdAt"):
            raise HttpError(409, "changed", "another stream has this id now")
        await self._actions[name](info, fields.get("ttl"))
        _log.info(
            "an operator changed stream %s: %s",
            logs.label(stream_id),
            name,
            extra=logs.event("monitor.action", stream_id),
        )
        await exchange.answer(JSONResponse({}, headers={"Cache-Control": "no-store"}))

    async def _stop(self, info: StreamInfo, ttl: Any) -> None:
        try:
            await self._store.mark_done(info.id, State.STOPPED)
        except StreamClosed as exc:
            raise HttpError(409, "ended", f"the stream is {exc.info.state}") from exc

    async def _expire(self, info: StreamInfo, ttl: Any) -> None:
        if ttl is None:  # which would keep the stream for good
            raise HttpError(400, "invalid_ttl", "ttl is a number of seconds")
        try:
            await self._store.expire(info.id, ttl)
        except InvalidRequest as exc:
            raise HttpError(400, "invalid_ttl", str(exc)) from exc

    async def _delete(self, info: StreamInfo, ttl: Any) -> None:
        await self._store.delete(info.id)
        # Any client of the store can write attributes: no other stream must be deleted so.
        request_id = info.attributes.get(SAVED_REQUEST_ATTRIBUTE, "")
        if request_id.startswith(SAVED_REQUEST_PREFIX):
            with suppress(StreamNotFound):
                await self._store.delete(request_id)


def _check_same_origin(exchange: Exchange) -> None:
    """Refuse what a page of another origin could have made a browser send.

    Such a page cannot set the header without a preflight, which is never answered. Browsers
    also say where a request comes from, since 2023 at the latest, and that cannot be forged.
    """
    site = exchange.headers.get("sec-fetch-site", "same-origin")
    if site != "same-origin" or exchange.headers.get(_HEADER) != "1":
        raise HttpError(403, "cross_site", f"an action needs the header {_HEADER}: 1")
