"""The address of the server in a store URL, and the same URL with another address."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

from streamstores.url_options import redacted

__all__ = ["address_of", "with_address"]

_PORTS = {"redis": 6379, "rediss": 6379, "postgresql": 5432, "postgres": 5432}
_WITHOUT_NETWORK = {"memory", "sqlite"}
_SEVERAL_SERVERS = {"redis+sentinel", "redis+cluster"}


def address_of(url: str) -> tuple[str, int]:
    """The host and port of the server that a store URL names.

    Of an `s3://` URL it is that of `endpoint_url`. A scheme that this package does not know
    must name both in the place of the host.

    Raises `ValueError`, which says why, for a URL without a server, with several servers, or
    of a server that a proxy cannot stand before.
    """
    parts = urlsplit(url)
    if "://" not in url:
        raise ValueError(f"a faulty network needs a store URL, and {url!r} is none")
    if parts.scheme in _WITHOUT_NETWORK:
        raise ValueError(f"{parts.scheme}:// has no network that could be faulty")
    if parts.scheme in _SEVERAL_SERVERS:
        raise ValueError(
            f"{parts.scheme}:// learns the addresses of further servers from the first, so a "
            "proxy before that one would be passed by"
        )
    if parts.scheme == "s3":
        return _endpoint_of(url)
    if "," in parts.netloc:
        raise ValueError(f"the URL names several servers: {redacted(url)}")
    port = parts.port or _PORTS.get(parts.scheme)
    if not parts.hostname or port is None:
        raise ValueError(f"the URL names no host and port: {redacted(url)}")
    return parts.hostname, port


def with_address(url: str, host: str, port: int) -> str:
    """The store URL with this host and port in place of those that `address_of` gives.

    Credentials and options stay as they are written.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3":
        credentials, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{credentials}{at}{host}:{port}").geturl()
    fields = parts.query.split("&")
    endpoint = quote(f"http://{host}:{port}", safe="")
    replaced = [
        f"endpoint_url={endpoint}" if each.startswith("endpoint_url=") else each
        for each in fields
    ]
    return parts._replace(query="&".join(replaced)).geturl()


def _endpoint_of(url: str) -> tuple[str, int]:
    # Not as a form is read: in a store URL a plus sign is a plus sign.
    fields = (each.partition("=") for each in urlsplit(url).query.split("&"))
    options = {name: unquote(value) for name, _, value in fields}
    endpoint = urlsplit(options.get("endpoint_url", ""))
    if endpoint.scheme != "http" or not endpoint.hostname:
        raise ValueError(
            "an s3:// URL needs an endpoint_url with http: a proxy has no certificate for "
            "another host"
        )
    return endpoint.hostname, endpoint.port or 80
