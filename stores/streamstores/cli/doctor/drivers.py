"""What `doctor` looks at on every store: whether we are tested with this driver."""

from __future__ import annotations

import re
from importlib import metadata

from streamstores.cli.doctor.findings import Finding, warning

__all__ = ["about_driver"]

# Such as: redis<9,>=5.1; extra == "redis"
_REQUIREMENT = re.compile(r"([\w.-]+)\s*([^;]*);\s*extra\s*==\s*['\"]([\w-]+)['\"]")
_BOUND = re.compile(r"(>=|<)\s*([\d.]+)")


def about_driver(extra: str) -> list[Finding]:
    """A finding for each package of the extra whose version is outside the extra's bounds."""
    try:
        requirements = metadata.requires("streamstores") or []
    except metadata.PackageNotFoundError:  # it was copied, not installed
        return []
    findings: list[Finding] = []
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is None or match[3] != extra:
            continue
        name, bounds = match[1], match[2].strip()
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # opening the store says so
        if not _is_within(version, bounds):
            meaning = f"{name} {version} is installed, and streamstores is tested with {bounds}"
            advice = f'pip install "streamstores[{extra}]"'
            findings.append(warning("driver.version", meaning, advice))
    return findings


def _is_within(version: str, bounds: str) -> bool:
    """Whether a version has all the bounds, which are `>=` and `<`."""
    number = _number(version)
    return all(
        number >= _number(bound) if kind == ">=" else number < _number(bound)
        for kind, bound in _BOUND.findall(bounds)
    )


def _number(version: str) -> list[int]:
    """The numbers that a version begins with, without zeros at the end: 8.0 is 8."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(each) for each in match[0].split(".")] if match else [0]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return numbers
