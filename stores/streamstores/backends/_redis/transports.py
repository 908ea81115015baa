"""What sends commands over an open connection and hands over each reply as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as DriverConnectionError
from redis.exceptions import RedisError, ResponseError

from streamstores.backends._redis.connections import start_task
from streamstores.backends._redis.resp import FASTEST_PARSER, encode_command

OnReply = Callable[[Any], None]

_NEEDED = ("get_protocol", "set_protocol", "write", "is_closing")


class CommandTransport(Protocol):
    """One connection from the moment it is open.

    `on_reply` gets each reply as `ReplyParser` describes it; if it raises, the transport is
    lost.
    """

    lost: asyncio.Future[None]
    """Fails, with the reason, once no more replies can come."""

    @property
    def is_writable(self) -> bool:
        """False while the server is slow to take what was sent, until `on_writable` is called,
        and for ever once the connection has ended."""
        ...

    def send(self, *commands: tuple[Any, ...]) -> None:
        """Send the commands, made of bytes, texts and numbers, as one write."""


def open_transport(
    connection: Connection, on_reply: OnReply, on_writable: Callable[[], None] | None = None
) -> CommandTransport:
    """The fastest transport that this version of redis-py allows.

    The socket of a connection is private in redis-py (`_writer` from 5.1 to 8). If it cannot
    be found, the connection's public methods carry the same traffic, at the price of a task
    and a turn of the event loop for each reply.
    """
    socket_transport: Any = getattr(getattr(connection, "_writer", None), "transport", None)
    if all(hasattr(socket_transport, name) for name in _NEEDED):  # uvloop has its own class
        return DirectTransport(socket_transport, on_reply, on_writable)
    return DriverTransport(connection, on_reply, on_writable)


class DirectTransport(asyncio.Protocol):
    """Reads and writes the socket itself, in place of redis-py's stream reader.

    A reply is parsed in the turn of the event loop in which it arrives; redis-py would need a
    task that reads, and one more turn of the loop for each reply.
    """

    def __init__(
        self,
        socket_transport: asyncio.Transport,
        on_reply: OnReply,
        on_writable: Callable[[], None] | None = None,
    ) -> None:
        self._parser = FASTEST_PARSER(self._hand_over)
        self._on_reply = on_reply
        self._on_writable = on_writable
        self._transport = socket_transport
        self._replaced = socket_transport.get_protocol()
        self._is_full = False
        self.lost = asyncio.get_running_loop().create_future()
        socket_transport.set_protocol(self)
        if socket_transport.is_closing():
            # The protocol before this one may have been told, and then this one never will be.
            _lose(self.lost, ConnectionError("the connection was lost"))

    @property
    def is_writable(self) -> bool:
        return not (self._is_full or self._transport.is_closing() or self.lost.done())

    def send(self, *commands: tuple[Any, ...]) -> None:
        self._transport.write(b"".join(map(encode_command, commands)))

    def data_received(self, data: bytes) -> None:
        if self.lost.done():
            return
        try:
            self._parser.feed(data)
        except Exception as exc:
            _lose(self.lost, exc)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if self._on_writable is not None:
            self._on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._replaced.connection_lost(exc)  # redis-py's writer waits for that when it closes
        _lose(self.lost, exc or ConnectionError("the connection was lost"))

    def _hand_over(self, reply: Any) -> None:
        if not self.lost.done():
            self._on_reply(reply)


class DriverTransport:
    """Goes through the public methods of redis-py's connection.

    One task reads replies, and one writes whatever has gathered since its last write.
    """

    def __init__(
        self,
        connection: Connection,
        on_reply: OnReply,
        on_writable: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._on_reply = on_reply
        self._on_writable = on_writable
        self._unsent: list[bytes] = []
        self._writing: asyncio.Task[None] | None = None
        self.lost = asyncio.get_running_loop().create_future()
        reading = start_task(self._read(), "redis replies")
        self.lost.add_done_callback(lambda _: reading.cancel())

    @property
    def is_writable(self) -> bool:
        return self._writing is None and not self.lost.done()

    def send(self, *commands: tuple[Any, ...]) -> None:
        self._unsent += map(encode_command, commands)
        if self._writing is None:
            self._writing = start_task(self._write(), "redis requests")

    async def _write(self) -> None:
        try:
            while self._unsent and not self.lost.done():
                unsent, self._unsent = self._unsent, []
                await self._connection.send_packed_command(b"".join(unsent), check_health=False)
        except (RedisError, OSError) as exc:
            _lose(self.lost, exc)
        finally:
            self._writing = None
        if self._on_writable is not None:
            self._on_writable()

    async def _read(self) -> None:
        try:
            while not self.lost.done():
                self._on_reply(await self._read_reply())
        except asyncio.CancelledError:
            _lose(self.lost, ConnectionError("the connection was closed"))
            raise
        except Exception as exc:
            _lose(self.lost, exc)

    async def _read_reply(self) -> Any:
        """The next reply; an error reply is returned, a lost connection raised."""
        try:
            # Not disconnecting on an error reply: redis-py would for any but a ResponseError.
            connection: Any = self._connection  # redis-py annotates no reply
            return await connection.read_response(
                disable_decoding=True, disconnect_on_error=False
            )
        except ResponseError as exc:
            return exc
        except DriverConnectionError as exc:
            # A subclass stands for a reply, such as LOADING; the class itself for a lost one.
            if type(exc) is DriverConnectionError:
                raise
            return exc


def _lose(lost: asyncio.Future[None], reason: Exception) -> None:
    if not lost.done():
        lost.set_exception(reason)
        lost.exception()  # marks it as retrieved, even if no caller awaits it
