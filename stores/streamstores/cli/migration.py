"""The command `migrate`: the schema of a store, brought up to date or printed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamstores.cli.store_session import URL_VARIABLE, run_with_url
from streamstores.errors import InvalidRequest
from streamstores.store_urls import open_store
from streamstores.url_options import merged

if TYPE_CHECKING:
    import typer

__all__ = ["add_migrate"]

_POSTGRES = ("postgresql", "postgres")
_WITHOUT_SCHEMA = ("memory", "redis", "rediss", "redis+sentinel", "redis+cluster", "s3")


def add_migrate(app: typer.Typer) -> None:
    """Add the command `migrate`."""
    import typer  # noqa: PLC0415  # the core install has no typer

    about_store: Any = typer.Option(None, "--store", envvar=URL_VARIABLE, help="A store URL.")
    about_dump: Any = typer.Option(
        False, "--dump-sql", help="Print the SQL, for PostgreSQL, and connect to nothing."
    )
    about_after: Any = typer.Option(
        0, min=0, help="With --dump-sql: the schema that the database has; 0 for none."
    )

    @app.command()
    def migrate(
        store: str | None = about_store,
        dump_sql: bool = about_dump,
        after: int = about_after,
    ) -> None:
        """Bring the schema of a store up to date, as opening the store does.

        With --dump-sql the SQL is printed instead, as one transaction, for those who apply it
        by hand. If it is applied to a database that has these tables already, it fails as a
        whole and changes nothing.

        Redis and S3 have no schema.
        """

        async def use(url: str) -> None:
            if dump_sql:
                print(_script(url, after), end="")
            elif after:
                raise InvalidRequest("--after goes with --dump-sql")
            else:
                await _migrate(url)

        run_with_url(store, use)


def _script(url: str, after: int) -> str:
    """The SQL for the tables that the URL names. Raises `InvalidRequest` for other stores."""
    open_store(url)  # which refuses wrong options, and connects to nothing
    if url.partition("://")[0] not in _POSTGRES:
        raise InvalidRequest("--dump-sql is for PostgreSQL; other stores need no rights for it")
    options: Any = import_module("streamstores.backends._postgres.options")
    schema: Any = import_module("streamstores.backends._postgres.schema")
    settings = merged(options.DEFAULTS, options.split_url(url).options, {})
    names = schema.check_names(
        settings["schema"], settings["table_prefix"], notify=settings["notify"]
    )
    script: str = schema.migration_script(names, after)
    return script


async def _migrate(url: str) -> None:
    store = open_store(url)
    if url.partition("://")[0] in _WITHOUT_SCHEMA:
        print("this store has no schema, so there is nothing to migrate")
        return
    async with store:
        print("the schema of the store is up to date")
