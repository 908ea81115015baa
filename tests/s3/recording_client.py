"""A client of the real server that records calls and can be made to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError, ConnectionClosedError

from tests.services.s3 import S3Server

Wanted = Callable[[str, dict[str, Any]], bool]


class RecordingClient:
    """Records calls and passes them on to a client; a store takes it as its `client`."""

    def __init__(self, server: S3Server) -> None:
        self.calls: list[tuple[str, str]] = []
        """(operation, key or prefix) of every call, in order."""
        self._client = server.client()
        self._lock = threading.Lock()
        self._dies_at: int | None = None
        self._lost: tuple[Wanted, bool] | None = None
        self._error: tuple[Wanted, ClientError] | None = None
        self._held: tuple[Wanted, threading.Event, threading.Event] | None = None

    def die_at(self, call: int) -> None:
        """After this many more calls, nothing reaches the server."""
        self._dies_at = len(self.calls) + call

    def lose(self, wanted: Wanted, *, applied: bool) -> None:
        """Lose the answer to the next call that is `wanted`; unless `applied`, the call too."""
        self._lost = (wanted, applied)

    def refuse(self, wanted: Wanted, code: str, status: int) -> None:
        """Answer the next call that is `wanted` with an error."""
        self._error = (wanted, _error(code, status, code))

    def hold(self, wanted: Wanted) -> tuple[threading.Event, threading.Event]:
        """Stop the next call that is `wanted` before it is sent. The first event is set when it
        has come; setting the second lets it continue."""
        self._held = (wanted, threading.Event(), threading.Event())
        return self._held[1], self._held[2]

    def count(self, operation: str, part: str = "") -> int:
        return sum(name == operation and part in key for name, key in self.calls)

    def forget(self) -> None:
        self.calls = []

    def close(self) -> None:
        self._client.close()

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**options: Any) -> Any:
            return self._call(operation, options)

        return call

    def _call(self, operation: str, options: dict[str, Any]) -> Any:
        with self._lock:
            self.calls.append((operation, options.get("Key") or options.get("Prefix", "")))
            is_dead = self._dies_at is not None and len(self.calls) > self._dies_at
        if is_dead:
            raise _error("AccessDenied", 403, operation)
        error = self._error
        if error is not None and error[0](operation, options):
            self._error = None
            raise error[1]
        self._wait_if_held(operation, options)
        lost, self._lost = self._lost, None
        if lost is None or not lost[0](operation, options):
            self._lost = lost
            return getattr(self._client, operation)(**options)
        if lost[1]:
            getattr(self._client, operation)(**options)
        raise ConnectionClosedError(endpoint_url="the test")

    def _wait_if_held(self, operation: str, options: dict[str, Any]) -> None:
        if self._held is not None and self._held[0](operation, options):
            _, is_there, may_go = self._held
            self._held = None
            is_there.set()
            assert may_go.wait(30)


def put_of(part: str) -> Wanted:
    """A PUT of a key that contains `part`."""
    return lambda operation, options: operation == "put_object" and part in options["Key"]


def _error(code: str, status: int, operation: str) -> ClientError:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {}, "RetryAttempts": 0}
    error = {"Code": code, "Message": "the test says so"}
    return ClientError({"Error": error, "ResponseMetadata": metadata}, operation)
