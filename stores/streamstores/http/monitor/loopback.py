"""`only_loopback`: an `authorize` that allows requests from this machine alone."""

from __future__ import annotations

import ipaddress
import re

from starlette.requests import Request

__all__ = ["is_loopback", "only_loopback"]

_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_HOST = re.compile(r"(?:\[([0-9a-fA-F:]+)\]|([^:]+))(?::[0-9]*)?")


def only_loopback(request: Request) -> bool:
    """Whether a request comes from this machine, directly, and addresses it as such.

    `Host` is checked because any web page that a browser here opens can make its own host name
    resolve to 127.0.0.1. Requests with the headers of a proxy are refused, and so is HTTP/1.0,
    which hardly any client but a proxy still uses (nginx does by default). A proxy on this
    machine that adds no header looks like a local user: let it refuse the monitor's path.
    """
    client = request.client
    if client is None or request.scope["http_version"] == "1.0":
        return False
    if any(name in request.headers for name in _FORWARDED):
        return False
    # Not request.url: Starlette replaces a malformed Host there with the server's address.
    host = _HOST.fullmatch(request.headers.get("host", ""))
    return host is not None and is_loopback(host[1] or host[2]) and is_loopback(client.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or an address always means this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
