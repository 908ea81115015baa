"""The options that many commands have."""

from __future__ import annotations

from typing import Any

from streamstores.cli.store_session import URL_VARIABLE

__all__ = ["about_json_option", "about_store_option"]


def about_store_option() -> Any:
    import typer  # noqa: PLC0415  # the core install has no typer

    return typer.Option(None, "--store", envvar=URL_VARIABLE, help="A store URL.")


def about_json_option() -> Any:
    import typer  # noqa: PLC0415  # the core install has no typer

    return typer.Option(False, "--json", help="Print lines of JSON.")
