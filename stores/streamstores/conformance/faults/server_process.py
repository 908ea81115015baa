"""A child process that a test may kill, freeze, and start again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["ProcessEnded", "ServerProcess"]

START_SECONDS = 30.0
STOP_SECONDS = 20.0
_LOG_BYTES = 500


class ProcessEnded(RuntimeError):
    """The process ended, or did not become ready, while it was started."""


class ServerProcess:
    """A server as a child process; a context manager that starts it and stops it.

    `command` is run in `folder`, where its output goes to the file `log`. It should keep its
    port and its data in its arguments, so that `restart` brings the same server back.

    `is_ready()` tells whether it can be used. It is asked every 10 ms and may raise `OSError`
    for no. `options` go to `subprocess.Popen`.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        is_ready: Callable[[], bool] = lambda: True,
        **options: Any,
    ) -> None:
        self._command = [str(each) for each in command]
        self._folder = folder
        self._is_ready = is_ready
        self._options = options
        self._process: subprocess.Popen[Any] | None = None

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def log(self) -> Path:
        """The file with all that the process has written, over all starts."""
        return self._folder / "log"

    def start(self) -> None:
        """Start, and wait until it is ready. Raises `ProcessEnded` with the end of its log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=log, stderr=log, **self._options
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it in order, by this signal; kill it if it has not ended after 20 seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)  # a frozen process would not end
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """End it by SIGKILL, as a crash does."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it, and start it again."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop its clock: its connections stay open and silent."""
        self._running.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End `freeze`."""
        self._running.send_signal(signal.SIGCONT)

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def _running(self) -> subprocess.Popen[Any]:
        if self._process is None:
            raise ProcessEnded(f"{self._command[0]} is not running")
        return self._process

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._looks_ready():
            if self._running.poll() is not None:
                raise ProcessEnded(f"{self._command[0]} ended: {self._last_words()}")
            if time.monotonic() > deadline:
                raise ProcessEnded(f"{self._command[0]} is not ready: {self._last_words()}")
            time.sleep(0.01)

    def _looks_ready(self) -> bool:
        try:
            return self._is_ready()
        except OSError:
            return False

    def _last_words(self) -> str:
        return self.log.read_bytes()[-_LOG_BYTES:].decode(errors="replace")
