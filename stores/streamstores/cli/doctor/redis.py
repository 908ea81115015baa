"""What `doctor` looks at on Redis and Valkey: each master's memory, disk and replicas."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from streamstores.backends._redis.configuration import RedisConfiguration, configure
from streamstores.cli.doctor.findings import Finding, error, note, warning

__all__ = ["examine"]

_OLDEST = (6, 2)
_FULL = 0.9
_PATIENCE = 2  # times the timeout of the store
_NO_CLIENT = 2**62  # an id that no connection has


async def examine(url: str) -> list[Finding]:
    """The findings for every master; three requests to each."""
    configuration = configure(url, None, None, None)
    client: Any = configuration.client
    # redis-py would try a silent server again for minutes, and loses a cancellation in it.
    client.set_retry(Retry(NoBackoff(), 0))
    async with AsyncExitStack() as stack:
        for owned in configuration.owned:
            stack.push_async_callback(owned.aclose)
        examining = asyncio.create_task(_examine_masters(configuration))
        examining.add_done_callback(_take_failure)
        # Unlike `wait_for`, this is cancelled at once, even if redis-py goes on.
        await asyncio.wait({examining}, timeout=configuration.timeout * _PATIENCE)
        if not examining.done():
            examining.cancel()
            return []
        try:
            return examining.result()
        except (RedisError, RedisClusterException, OSError):
            return []  # the store does not connect either, and says why


def _take_failure(task: asyncio.Task[list[Finding]]) -> None:
    """Look at the task's exception, which asyncio would report if it is never looked at."""
    if not task.cancelled():
        task.exception()


async def _examine_masters(configuration: RedisConfiguration) -> list[Finding]:
    """The findings; with the name of the master, if there are several."""
    client: Any = configuration.client
    if not isinstance(client, RedisCluster):
        return await _examine_master(client, configuration, {})
    await client.initialize()
    findings: list[Finding] = []
    for node in client.get_primaries():
        there = await _examine_master(client, configuration, {"target_nodes": node})
        findings += [
            finding._replace(meaning=f"{node.name}: {finding.meaning}") for finding in there
        ]
    return findings


async def _examine_master(
    client: Any, configuration: RedisConfiguration, where: dict[str, Any]
) -> list[Finding]:
    """`where` are the arguments that send a command to one node of a Cluster."""
    findings = await _about_killing(client, where)
    try:
        facts: dict[str, Any] = await client.execute_command("INFO", **where)
    except NoPermissionError:
        meaning = "this user may not call INFO: eviction and persistence are not known"
        advice = "repeat the command as a user with +info and +config|get"
        return [*findings, note("redis.not_examined", meaning, advice)]
    findings += _about_server(facts) + _about_eviction(facts)
    findings += _about_persistence(facts, await _snapshots(client, where))
    if configuration.durability.name in ("async", "disk"):
        findings += _about_replicas(facts)
    return findings


async def _about_killing(client: Any, where: dict[str, Any]) -> list[Finding]:
    """Whether the store may have a connection of its own killed."""
    try:
        await client.execute_command("CLIENT", "KILL", "ID", _NO_CLIENT, **where)
    except ResponseError as exc:
        return [
            warning(
                "redis.no_client_kill",
                f"the server refuses CLIENT KILL ({exc}), so a mutation whose outcome was "
                "unknown may still be applied later",
                "give the user +client|kill, or retry only under version or at",
            )
        ]
    return []


async def _snapshots(client: Any, where: dict[str, Any]) -> str | None:
    """The server's `save`; None if it does not say."""
    try:
        reply: Any = await client.execute_command("CONFIG", "GET", "save", **where)
    except ResponseError:
        return None
    # redis-py makes a dict of it, or leaves the list of the name and the value.
    values: list[Any] = [*reply.values()] if hasattr(reply, "values") else reply[1::2]
    value: Any = values[0] if values else None
    return value.decode() if isinstance(value, bytes) else value


def _about_server(facts: dict[str, Any]) -> list[Finding]:
    """The version and the role."""
    findings: list[Finding] = []
    version = str(facts.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers and numbers < _OLDEST:
        meaning = f"the server is Redis {version}; the store needs 6.2"
        findings.append(error("redis.version", meaning, "update the server"))
    if facts.get("role") == "slave":
        meaning = "the server is a replica, which takes no writes"
        advice = "name the master, or use redis+sentinel:// or redis+cluster://"
        findings.append(error("redis.replica", meaning, advice))
    return findings


def _about_eviction(facts: dict[str, Any]) -> list[Finding]:
    """Whether the server removes keys when its memory is full, and how full it is."""
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    most = int(facts.get("maxmemory", 0))
    used = int(facts.get("used_memory", 0))
    findings: list[Finding] = []
    if policy != "noeviction":
        what = "any key" if policy.startswith("allkeys") else "keys of streams that expire"
        make = error if policy.startswith("allkeys") and most else warning
        when = f"at {most >> 20} MiB" if most else "once maxmemory is set"
        meaning = f"maxmemory-policy is {policy}: {when} the server removes {what}"
        advice = "set maxmemory-policy noeviction, or use a server without a cache's policy"
        findings.append(make("redis.eviction", meaning, advice))
    if most and used > most * _FULL:
        meaning = f"{used >> 20} of {most >> 20} MiB of maxmemory are used"
        advice = "raise maxmemory, or lower the ttl of the streams"
        findings.append(warning("redis.little_memory", meaning, advice))
    return findings


def _about_persistence(facts: dict[str, Any], snapshots: str | None) -> list[Finding]:
    """What a restart would lose, and whether writing to the disk fails."""
    findings: list[Finding] = []
    if not facts.get("aof_enabled"):
        if snapshots == "":
            meaning = "neither appendonly nor save is set: a restart loses all streams"
            kept = "redis.no_persistence"
        else:
            meaning = "appendonly is off: a crash loses what came after the last snapshot"
            kept = "redis.no_append_only_file"
        findings.append(warning(kept, meaning, "set appendonly yes, and appendfsync"))
    for name, what in _WRITES.items():
        if facts.get(name, "ok") != "ok":
            meaning = f"the last write of {what} failed; the server may refuse changes"
            advice = "look into the server's log, and at its disk"
            findings.append(error("redis.persistence_failed", meaning, advice))
    return findings


_WRITES = {
    "aof_last_write_status": "the append-only file",
    "aof_last_bgrewrite_status": "a new append-only file",
    "rdb_last_bgsave_status": "a snapshot",
}


def _about_replicas(facts: dict[str, Any]) -> list[Finding]:
    """Whether a failover may lose appends."""
    if not facts.get("connected_slaves"):
        return []
    if "min_slaves_good_slaves" in facts:  # only with min-replicas-to-write
        return []
    return [
        warning(
            "redis.failover",
            "replication is asynchronous, and min-replicas-to-write is 0: a failover can lose "
            "acknowledged appends, also those of a master that was cut off",
            "set min-replicas-to-write 1, and durability=replica in the URL of the store",
        )
    ]
