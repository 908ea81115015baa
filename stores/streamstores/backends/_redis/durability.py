"""What a mutation waits for after its script: nothing, a replica, or the disk."""

from __future__ import annotations

import operator
from typing import Any, cast

from redis.asyncio.connection import Connection
from redis.exceptions import RedisError, ResponseError

from streamstores.backends._redis.shared_connection import NotSent, ReplyLost, SharedConnection
from streamstores.errors import InvalidRequest

# The command that waits, without its timeout. `replica` asks for the memory of one replica,
# `disk` for the master's append-only file, `replica-disk` for that and one replica's.
_COMMANDS: dict[str, tuple[Any, ...]] = {
    "async": (),
    "replica": ("WAIT", 1),
    "disk": ("WAITAOF", 1, 0),
    "replica-disk": ("WAITAOF", 1, 1),
}


class Durability:
    """The `durability` of a store: how it is checked at opening, and asked for afterwards."""

    def __init__(self, name: str, timeout: float) -> None:
        if name not in _COMMANDS:
            raise InvalidRequest(f"durability is one of {', '.join(_COMMANDS)}, not {name!r}")
        self.name = name
        self._command = _COMMANDS[name]
        # The server gives up in half the time that a reply may take, so it always replies.
        self._wait_milliseconds = max(int(timeout * 500), 1)
        self._was_offered = False

    @property
    def is_awaited(self) -> bool:
        """False for `async`: nothing is waited for."""
        return bool(self._command)

    async def check(self, connection: Connection) -> None:
        """Raise unless this server can give the durability.

        Asked on each new connection, because a promoted replica may be set up differently.
        Raises `InvalidRequest` for a server without WAITAOF (before Redis 7.2), without an
        append-only file, or without permission; after one server has passed,
        `ConnectionError`, because by then it is the server that needs a correction.
        """
        # The real command, for a millisecond: nothing else tells whether it would be refused.
        await connection.send_command(*self._command, 1)
        try:
            await connection.read_response(disable_decoding=True)
        except ResponseError as exc:
            refusal = f"durability={self.name!r} cannot be had from this server: {exc}"
            if self._was_offered or "replica instances" in str(exc):
                raise ConnectionError(refusal) from exc
            raise InvalidRequest(refusal) from exc
        self._was_offered = True

    async def confirm(self, connection: SharedConnection) -> None:
        """Wait on the connection that wrote, since the server answers for its writes only.

        Raises `ReplyLost` for any failure, because the mutation itself was applied.
        """
        command = (*self._command, self._wait_milliseconds)
        try:
            reply = await connection.call(*command, handle=_unchanged)
        except ResponseError as exc:
            # The next mutation must not be applied by a server that cannot confirm it.
            connection.hang_up(exc)
            raise ReplyLost(f"applied, but not confirmed: {exc}") from exc
        except (NotSent, RedisError) as exc:
            raise ReplyLost(f"applied, but not confirmed: {exc}") from exc
        reached = cast("list[int]", reply if isinstance(reply, list) else [reply])
        asked = self._command[1:]
        if any(map(operator.lt, reached, asked)):
            raise ReplyLost(
                f"applied, but confirmed by {reached} instead of {[*asked]} in time"
            )


def _unchanged(reply: Any) -> Any:
    return reply
