"""The command `serve`: the monitor and the Durable Streams protocol over any store."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING

from streamstores.cli.options import about_json_option, about_store_option
from streamstores.cli.store_session import run_with_url
from streamstores.errors import InvalidRequest
from streamstores.store_urls import open_store

if TYPE_CHECKING:
    import typer

__all__ = ["add_serve"]

PASSWORD_VARIABLE = "STREAMSTORES_PASSWORD"  # the name of the variable
SHORTEST_PASSWORD = 12


def add_serve(app: typer.Typer) -> None:
    """Add the command `serve`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_store, about_json = about_store_option(), about_json_option()
    about_host = typer.Option("127.0.0.1", help="The address to listen on.")
    about_port = typer.Option(8000, min=0, max=65535, help="0 takes any that is free.")
    about_writable = typer.Option(
        False, "--writable", help="Let clients create, append, stop, expire and delete."
    )

    @app.command()
    def serve(
        store: str | None = about_store,
        host: str = about_host,
        port: int = about_port,
        writable: bool = about_writable,
        as_json: bool = about_json,
    ) -> None:
        """Serve the monitor of a store, and its streams by the Durable Streams protocol, until
        Ctrl-C or SIGTERM.

        Requests must come from this machine, unless the environment variable
        STREAMSTORES_PASSWORD is set: then each needs that password. An address that other
        machines reach needs a password.
        """
        run_with_url(store, partial(_serve, host, port, writable, as_json))


async def _serve(host: str, port: int, is_writable: bool, as_json: bool, url: str) -> None:
    """Listen, open the store, say where everything is, and serve until a signal."""
    # Starlette and uvicorn, which other commands do without. The first says which extra is
    # missing.
    from streamstores import _local_server  # noqa: PLC0415
    from streamstores.cli.store_server import StoreServer  # noqa: PLC0415
    from streamstores.http.monitor.loopback import is_loopback  # noqa: PLC0415

    password = _password()
    if password is None and not is_loopback(host):
        raise InvalidRequest(
            f"other machines reach {host}: set {PASSWORD_VARIABLE}, or listen on 127.0.0.1"
        )
    with _local_server.listen(host, port) as listening:
        address = _local_server.url_of(listening, host)

        def announce() -> None:
            what = {
                "monitor": f"{address}/monitor/",
                "streams": f"{address}/streams/<id>",
                "store": _local_server.without_secrets(url),
                "clients": "may change streams" if is_writable else "may only read",
                "password": "needed" if password else "none: only from this machine",
            }
            lines = [f"{name + ':':<10}{value}" for name, value in what.items()]
            print(json.dumps(what) if as_json else "\n".join(lines), flush=True)

        async with open_store(url) as store:
            server = StoreServer(store, password=password, is_writable=is_writable)
            running = _local_server.LocalServer(server.app, server.handlers, announce)
            await running.serve_on(listening)


def _password() -> str | None:
    """The password of the environment. Raises `InvalidRequest` if it could be guessed."""
    password = os.environ.get(PASSWORD_VARIABLE) or None
    if password is not None and len(password) < SHORTEST_PASSWORD:
        raise InvalidRequest(
            f"{PASSWORD_VARIABLE} needs at least {SHORTEST_PASSWORD} characters"
        )
    return password
