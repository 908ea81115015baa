"""What `doctor` looks at on S3: the clock, and what the bucket does with old objects.

Whether the server keeps its conditions is tried when the store opens.
"""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import (  # type: ignore[import-untyped]  # it ships no types
    BotoCoreError,
    ClientError,
)

from streamstores.backends._s3.boto_client import make_client
from streamstores.backends._s3.bucket_policies import lifecycle_rule
from streamstores.backends._s3.s3_options import S3Options, parse_s3_url
from streamstores.cli.doctor.findings import Finding, error, note, warning

__all__ = ["clock_findings", "examine"]

_APART_SECONDS = 30


async def examine(url: str) -> list[Finding]:
    """The findings; three requests, which change nothing."""
    return await asyncio.to_thread(_examine, parse_s3_url(url))


def _examine(options: S3Options) -> list[Finding]:
    try:
        client = make_client(options)
    except (BotoCoreError, ValueError):  # boto3 raises ValueError for an address that is none
        return []
    try:
        return _about_clock(client, options) + _about_lifecycle(client, options)
    except (BotoCoreError, ClientError):
        return []  # the store does not connect either, and says why
    finally:
        client.close()


def _about_clock(client: Any, options: S3Options) -> list[Finding]:
    """One request."""
    answer = client.list_objects_v2(Bucket=options.bucket, Prefix=options.prefix, MaxKeys=1)
    headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    return clock_findings(headers.get("date", ""), time.time())


def clock_findings(date: str, now: float) -> list[Finding]:
    """What follows from the `Date` of an answer, if this machine's clock says `now`."""
    try:
        apart = now - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        meaning = "the server's answers have no Date, by which expiry is decided"
        return [error("s3.no_clock", meaning, "see whether a proxy removes the header")]
    if abs(apart) <= _APART_SECONDS:
        return []
    return [
        warning(
            "s3.clock",
            f"this machine's clock is {abs(apart):.0f} seconds "
            f"{'ahead of' if apart > 0 else 'behind'} the server's. Expiry goes by the "
            "server's clock; from 15 minutes on, AWS refuses every request",
            "synchronize the clock of this machine, with NTP for example",
        )
    ]


def _about_lifecycle(client: Any, options: S3Options) -> list[Finding]:
    """What the bucket removes, and what it keeps for ever."""
    try:
        rules = _rules(client, options)
        versions = client.get_bucket_versioning(Bucket=options.bucket).get("Status")
    except ClientError as exc:
        meaning = f"the rules of the bucket could not be read ({_code_of(exc)})"
        advice = "repeat the command with the right s3:GetLifecycleConfiguration"
        return [note("s3.not_examined", meaning, advice)]
    return [
        *(_removal(rule) for rule in rules if _removes_objects(rule)),
        *_about_leftovers(rules, options, keeps_versions=versions == "Enabled"),
    ]


def _rules(client: Any, options: S3Options) -> list[dict[str, Any]]:
    """The enabled rules that may meet an object of the store."""
    try:
        answer = client.get_bucket_lifecycle_configuration(Bucket=options.bucket)
    except ClientError as exc:
        if _code_of(exc) == "NoSuchLifecycleConfiguration":
            return []
        raise
    rules: list[dict[str, Any]] = answer.get("Rules", [])
    return [
        rule
        for rule in rules
        if rule.get("Status") == "Enabled" and _meet(_prefix_of(rule), options.prefix)
    ]


def _code_of(exc: Any) -> str:
    code: str = exc.response.get("Error", {}).get("Code", "")
    return code


def _prefix_of(rule: dict[str, Any]) -> str:
    chosen: dict[str, Any] = rule.get("Filter") or {}
    inner: dict[str, Any] = chosen.get("And") or {}
    prefix: str = rule.get("Prefix") or chosen.get("Prefix") or inner.get("Prefix") or ""
    return prefix


def _meet(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _removes_objects(rule: dict[str, Any]) -> bool:
    return bool({"Days", "Date"} & rule.get("Expiration", {}).keys())


def _removal(rule: dict[str, Any]) -> Finding:
    return error(
        "s3.lifecycle_removes",
        f"the lifecycle rule {rule.get('ID', '')!r} removes objects of the store by their age, "
        "also those of streams that live",
        "remove the Expiration from the rule, or its prefix; give the streams a ttl instead",
    )


def _about_leftovers(
    rules: list[dict[str, Any]], options: S3Options, *, keeps_versions: bool
) -> list[Finding]:
    """What nothing gives back: parts of uploads, and old versions."""
    advice = f"add this rule to the bucket's lifecycle: {json.dumps(lifecycle_rule(options))}"
    findings: list[Finding] = []
    if not any("AbortIncompleteMultipartUpload" in rule for rule in rules):
        meaning = "nothing removes what a killed process leaves of a multipart upload"
        findings.append(note("s3.leftovers", meaning, advice))
    if keeps_versions and not any("NoncurrentVersionExpiration" in rule for rule in rules):
        meaning = "the bucket keeps every version for ever: removed streams are still paid for"
        findings.append(warning("s3.versions", meaning, advice))
    return findings
