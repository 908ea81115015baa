"""A TCP proxy between a store and its server that can be cut, silenced, and secured by TLS."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tests.services import Unavailable


class Proxy:
    """A local port that leads to another one. It runs on a thread of its own."""

    def __init__(self, target_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target_port = target_port
        """New connections lead there."""
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._replies = asyncio.Event()
        self._replies.set()
        self._requests = _open_gate()
        self.port = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._server = self._run(
            asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def mute(self) -> None:
        """Hold back all replies from now on; requests still arrive."""
        self._loop.call_soon_threadsafe(self._replies.clear)

    def unmute(self) -> None:
        self._loop.call_soon_threadsafe(self._replies.set)

    def hold_requests(self) -> asyncio.Event:
        """Hold back what the present connections send; new ones are not held.

        Returns the gate for `release`. The server's end of a held connection stays open even
        if the store closes its own, like bytes that a slow network still delivers.
        """
        return self._run(self._hold())  # type: ignore[no-any-return]

    def release(self, gate: asyncio.Event) -> None:
        """Deliver what `hold_requests` held back."""
        self._loop.call_soon_threadsafe(gate.set)

    def cut(self) -> None:
        """Abort every connection; new ones are accepted."""
        self._run(self._abort())

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _hold(self) -> asyncio.Event:
        held, self._requests = self._requests, _open_gate()
        held.clear()
        return held

    async def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        await self._abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = self._requests
        try:
            far_reader, far_writer = await asyncio.open_connection(
                "127.0.0.1", self.target_port
            )
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._writers |= pair
        with suppress(asyncio.CancelledError):
            await asyncio.gather(
                self._pump(reader, far_writer, requests),
                self._pump(far_reader, writer, self._replies),
            )
        self._writers -= pair

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await gate.wait()
                writer.write(data)
                await writer.drain()
            await gate.wait()  # the end of the connection must not overtake held bytes
        writer.close()


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


def server_tls(folder: Path) -> ssl.SSLContext:
    """A context with a fresh self-signed certificate for 127.0.0.1, in `folder`."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as exc:
        raise Unavailable("cryptography is not installed") from exc
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "streamstores tests")])
    now = datetime.now(timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
