"""The TCP connection of a request, found among the process's own sockets.

ASGI has no message that drops a connection: an application can only end its response, and a
server then waits until the client has taken what is buffered, which a frozen client never
does. So the connection is looked up by its two addresses, which every server puts into the
scope, and shut down at the socket. The server sees that as a broken connection.

This works wherever `/proc/self/fd` or `/dev/fd` lists the open descriptors (Linux, macOS, the
BSDs), for TCP over HTTP/1. A connection that is not found is left alone: on a Unix socket, or
if middleware has replaced `scope["client"]`. The peer is a proxy then, which has a timeout of
its own (nginx: `send_timeout`). HTTP/2 is left alone because other requests share the
connection.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

try:
    import fcntl
    import termios
except ImportError:  # Windows, which has no list of descriptors either
    fcntl = termios = None  # type: ignore[assignment]

_UNSENT: int | None = getattr(termios, "TIOCOUTQ", None)

__all__ = ["Connection", "unsent_bytes"]

_DESCRIPTORS = ("/proc/self/fd", "/dev/fd")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the close is a reset, and frees the queue

_found: dict[Any, int] = {}  # the descriptors of the last look, by the ends of their sockets


class Connection(NamedTuple):
    """The two ends of a TCP connection.

    Finding it looks at every open descriptor of the process, some microseconds each. So it is
    only for responses that were long, and for clients that take nothing. What a look found is
    kept, because many connections are looked for at once when a process ends.
    """

    client: tuple[str, int]
    server: tuple[str, int]

    @classmethod
    def of(cls, scope: Mapping[str, Any]) -> Connection | None:
        """The connection of a request, if it is one that can be dropped."""
        client, server = scope.get("client"), scope.get("server")
        is_shared = str(scope.get("http_version", "1.1")).startswith(("2", "3"))
        if is_shared or not client or not server or server[1] is None:
            return None
        # granian 2.8 gives the ports as text
        return cls((client[0], int(client[1])), (server[0], int(server[1])))

    def find(self) -> int | None:
        """The descriptor of the connection's socket; None if it is closed or not found."""
        descriptor = _found.get(self, -1)
        if not self.is_at(descriptor):  # it is closed, or younger than the last look
            _found.clear()
            _found.update((_ends_of(each), each) for each in _open_descriptors())
            descriptor = _found.get(self, -1)
        return descriptor if self.is_at(descriptor) else None

    def is_at(self, descriptor: int) -> bool:
        """Whether this connection's socket has that descriptor."""
        return descriptor >= 0 and _ends_of(descriptor) == self

    def drop(self) -> bool:
        """Break the connection, and discard what the client has not taken. False if it is not
        found, for example because it is closed already."""
        descriptor = self.find()
        if descriptor is None:
            return False
        with suppress(OSError):
            # On a duplicate, because a thread of the server may close the descriptor at any
            # time, and the number may then name another socket.
            copy = os.dup(descriptor)
            with socket.socket(fileno=copy) as found:
                if self.is_at(copy):
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    found.shutdown(socket.SHUT_RDWR)
                    return True
        return False


def unsent_bytes(descriptor: int) -> int:
    """How many bytes the kernel holds for a socket that its peer has not acknowledged. 0 if
    the system does not tell, or the descriptor is closed."""
    if fcntl is None or _UNSENT is None:
        return 0
    size = array.array("i", [0])
    with suppress(OSError):
        fcntl.ioctl(descriptor, _UNSENT, size)
    return size[0]


def _ends_of(descriptor: int) -> tuple[Any, Any] | None:
    """The addresses of a connected TCP socket; None if the descriptor is anything else."""
    try:
        # AF_INET6 has room for addresses of both families
        borrowed = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, descriptor)
    except OSError:
        return None
    try:
        return borrowed.getpeername()[:2], borrowed.getsockname()[:2]
    except OSError:
        return None
    finally:
        borrowed.detach()  # it stays the server's to close


def _open_descriptors() -> Iterator[int]:
    for folder in _DESCRIPTORS:
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        return (int(name) for name in names if name.isdecimal())
    return iter(())
