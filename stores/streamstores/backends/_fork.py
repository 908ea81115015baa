"""A guard against using an open store in a forked child."""

from __future__ import annotations

import os

from streamstores.errors import InvalidRequest


class ForkGuard:
    """Remembers which process opened a store.

    A forked child inherits the sockets, files and event loop of its parent, but none of its
    threads. Two processes on one socket destroy the protocol for both, and even closing the
    socket in the child takes it out of the parent's event loop (Linux's epoll is shared). So
    in a child the store refuses every call and leaves what it inherited alone.
    """

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid: int | None = None

    def opened(self) -> None:
        """Call it before the first connection is made."""
        self._pid = os.getpid()

    @property
    def is_inherited(self) -> bool:
        """Whether another process, of which this is a fork, opened the store."""
        return self._pid is not None and self._pid != os.getpid()

    def check(self) -> None:
        """Raise `InvalidRequest` in a forked child; costs one call of `os.getpid`."""
        if self.is_inherited:
            raise InvalidRequest(
                f"this store was opened by process {self._pid} before it forked process "
                f"{os.getpid()}: open a store of its own in each process, after the fork"
            )
