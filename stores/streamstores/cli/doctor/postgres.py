"""What `doctor` looks at on PostgreSQL: settings, notices, rights and tables."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import asyncpg

from streamstores._time_limits import in_time
from streamstores.backends._postgres import options
from streamstores.backends._postgres.schema import Names, check_names, migrations
from streamstores.cli.doctor.findings import Finding, error, note, warning
from streamstores.url_options import merged

__all__ = ["examine"]

_NOTICE_SECONDS = 5.0
_DEAD_ROWS = 50_000
_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")
_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, asyncio.TimeoutError)


async def examine(url: str) -> list[Finding]:
    """The findings, without changing anything; over two connections."""
    parts, given = options.split_url(url)
    settings = merged(options.DEFAULTS, given, {})
    names = check_names(settings["schema"], settings["table_prefix"], notify=False)
    try:
        connection = await _connect(parts.geturl(), settings)
    except _FAILURES:
        return []  # the store does not connect either, and says why
    try:
        findings = await _about_settings(connection, settings)
        findings += await _about_tables(connection, names)
        if settings["notify"]:
            findings += await _about_notices(connection, parts.geturl(), settings)
    except _FAILURES as exc:
        meaning = f"the examination ended early: {type(exc).__name__}: {exc}"
        return [note("postgres.not_examined", meaning, "repeat the command")]
    finally:
        connection.terminate()
    return findings


async def _connect(url: str, settings: dict[str, Any]) -> Any:
    return await asyncpg.connect(
        url,
        timeout=settings["timeout"],
        command_timeout=settings["command_timeout"],
        statement_cache_size=0,  # behind a pooler, prepared statements may be lost
    )


async def _about_settings(connection: Any, settings: dict[str, Any]) -> list[Finding]:
    """The role of the server, and the settings that decide what a crash loses."""
    rows = await connection.fetch(_SETTINGS)
    values: dict[str, str] = {row["name"]: row["setting"] for row in rows}
    findings: list[Finding] = []
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        advice = "name the primary, or add target_session_attrs=read-write to the URL"
        meaning = "the server is a standby, which takes no writes"
        findings.append(error("postgres.standby", meaning, advice))
    for name in ("fsync", "full_page_writes"):
        if values.get(name) == "off":
            meaning = f"{name} is off: a crash of the machine can corrupt the whole database"
            findings.append(error(f"postgres.{name}", meaning, f"set {name} = on"))
    commit = values.get("synchronous_commit")
    if commit == "off" and settings["durability"] == "power":
        meaning = "synchronous_commit is off: a crash loses the last acknowledged appends"
        advice = "set synchronous_commit = on for this user, or say durability=process"
        findings.append(warning("postgres.synchronous_commit", meaning, advice))
    if commit == "local" and values.get("synchronous_standby_names"):
        meaning = "synchronous_commit is local, so no synchronous standby is waited for"
        advice = "set synchronous_commit = on if a failover may lose nothing"
        findings.append(warning("postgres.standby_not_awaited", meaning, advice))
    if values.get("autovacuum") == "off":
        meaning = "autovacuum is off: every append leaves a dead row, and the tables only grow"
        findings.append(warning("postgres.autovacuum", meaning, "set autovacuum = on"))
    return findings


_SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes',
    'synchronous_commit', 'synchronous_standby_names', 'autovacuum')
"""


async def _about_tables(connection: Any, names: Names) -> list[Finding]:
    findings: list[Finding] = []
    for table in ("streams", "records"):
        findings += await _about_table(connection, names.table(table))
    return findings + await _about_schema(connection, names.table("migrations"))


async def _about_table(connection: Any, table: str) -> list[Finding]:
    """Rights, autovacuum and dead rows of one table."""
    row = await connection.fetchrow(_TABLE, table)
    if row is None:
        return []  # opening the store makes it, or says why it cannot
    findings: list[Finding] = []
    missing = [
        right
        for right in _RIGHTS
        if not await connection.fetchval("SELECT has_table_privilege($1, $2)", table, right)
    ]
    if missing:
        listed = ", ".join(missing)
        meaning = f"this user lacks the rights {listed} on {table}"
        findings.append(error("postgres.rights", meaning, f"GRANT {listed} ON {table} TO …"))
    if "autovacuum_enabled=false" in (row["reloptions"] or ()):
        meaning = f"autovacuum is off for {table}, which only grows"
        advice = f"ALTER TABLE {table} RESET (autovacuum_enabled)"
        findings.append(warning("postgres.autovacuum", meaning, advice))
    dead, live = row["dead"] or 0, row["live"] or 0
    if dead > max(_DEAD_ROWS, live):
        meaning = f"{table} has {dead} dead rows beside {live} live rows: it is bloated"
        advice = "look for old transactions in pg_stat_activity; then VACUUM the table"
        findings.append(warning("postgres.bloat", meaning, advice))
    return findings


_TABLE = """
SELECT c.reloptions, s.n_dead_tup AS dead, s.n_live_tup AS live
FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.oid = to_regclass($1)
"""


async def _about_schema(connection: Any, table: str) -> list[Finding]:
    """Whether a newer release has migrated the tables."""
    if await connection.fetchval("SELECT to_regclass($1)", table) is None:
        return []
    if not await connection.fetchval("SELECT has_table_privilege($1, 'SELECT')", table):
        meaning = f"this user may not read {table}, which opening the store does"
        return [error("postgres.rights", meaning, f"GRANT SELECT ON {table} TO …")]
    version = await connection.fetchval(f"SELECT coalesce(max(number), 0) FROM {table}")
    known = migrations()[-1][0]
    if version <= known:
        return []
    meaning = f"the tables have schema {version}; this release knows {known} and uses them"
    return [note("postgres.newer_schema", meaning, "update this program when you can")]


async def _about_notices(connection: Any, url: str, settings: dict[str, Any]) -> list[Finding]:
    """Whether a second connection's NOTIFY reaches a connection that listens."""
    channel = f"streamstores_doctor_{secrets.token_hex(6)}"
    has_come = asyncio.Event()

    def take(*_: object) -> None:
        has_come.set()

    await connection.add_listener(channel, take)
    sender = await _connect(url, settings)
    try:
        await sender.execute("SELECT pg_notify($1, '')", channel)
        await in_time(has_come.wait(), _NOTICE_SECONDS)
    except asyncio.TimeoutError:
        return [
            warning(
                "postgres.notices",
                f"a NOTIFY did not arrive within {_NOTICE_SECONDS:.0f} seconds, as behind a "
                "pooler in transaction mode: followers in other processes learn of an append "
                "only when they poll",
                "connect to the server itself, or say notify=false&statement_cache_size=0",
            )
        ]
    finally:
        sender.terminate()
    return []
