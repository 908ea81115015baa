"""A listener for the signals that end a server.

A server that receives SIGTERM first waits for its responses, and only then sends the
application its shutdown event. A response that streams for minutes would hold up both. So a
handler listens for the signal itself, beside the server.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["SignalWatch"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalWatch:
    """Calls `on_signal` in the running loop when the process receives SIGINT or SIGTERM.

    It does so only if the server has installed a handler of its own, which is still called.
    It works only in the main thread, because Python allows signal handlers nowhere else.
    """

    def __init__(self, on_signal: Callable[[], object]) -> None:
        self._on_signal = on_signal
        self._loop = asyncio.get_running_loop()
        self._undo: dict[int, tuple[Any, Any]] = {}
        self._is_open = True
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._listen(number)

    def close(self) -> None:
        """Restore the previous handlers, unless other code has replaced ours."""
        self._is_open = False
        for number, (ours, previous) in self._undo.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, previous)
        self._undo.clear()

    def _listen(self, number: int) -> None:
        """Wrap the handler of one signal. Python's own handlers stay: they end the process."""
        previous = signal.getsignal(number)
        if not callable(previous) or previous is signal.default_int_handler:
            return  # no server is here that ends gracefully

        def ours(signal_number: int, frame: Any) -> None:
            # Only scheduled here, because a signal may interrupt the loop in the middle of a
            # change of its own state. The threadsafe call also wakes a loop that is waiting for
            # its sockets.
            if self._is_open:
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._on_signal)
            previous(signal_number, frame)

        signal.signal(number, ours)
        self._undo[number] = (ours, previous)
