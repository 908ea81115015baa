"""Hearing of the server's end in time.

A server that is told to end waits for its responses first, and for the application's
shutdown event after that: a response that streams for minutes would hold both up. So a
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
    """Calls `on_signal` in the running loop when the process is told to end.

    Only where somebody else, the server, handles the signal already; that handler is called
    as before. Only in the main thread, where Python allows it.
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
        """Take the handlers off again, where nobody has put another on top."""
        self._is_open = False
        for number, (ours, previous) in self._undo.items():
            if signal.getsignal(number) is ours:
                signal.signal(number, previous)
        self._undo.clear()

    def _listen(self, number: int) -> None:
        previous = signal.getsignal(number)
        if not callable(previous) or previous is signal.default_int_handler:
            return  # nobody ends gracefully here

        def ours(signal_number: int, frame: Any) -> None:
            if self._is_open:
                with suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._on_signal)
            previous(signal_number, frame)

        signal.signal(number, ours)
        self._undo[number] = (ours, previous)
