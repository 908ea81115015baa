"""Without the package that it needs, an adapter says what to install."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from streamstores import integrations

NEEDED = {
    "a2a": ("a2a", "a2a"),
    "ag_ui": ("starlette", "http"),
    "ai_sdk": ("starlette", "http"),
    "assistant_stream": ("assistant_stream", "assistant-stream"),
    "langgraph": ("starlette", "http"),
    "mcp": ("mcp", "mcp"),
    "models": ("starlette", "http"),
    "openai_responses": ("starlette", "http"),
    "opentelemetry": ("opentelemetry", "otel"),
    "sources": ("starlette", "http"),
}
"""The package that a module cannot be imported without, and the extra that brings it."""
MODULES = [
    each.name
    for each in pkgutil.iter_modules(integrations.__path__)
    if not each.name.startswith("_")
]


def test_each_adapter_is_listed() -> None:
    assert sorted(NEEDED) == sorted(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_missing_package_is_named_with_its_extra(module: str) -> None:
    package, extra = NEEDED[module]
    hidden = f"import sys; sys.modules[{package!r}] = None"
    code = f"{hidden}; import streamstores.integrations.{module}"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("ImportError: streamstores.")
    assert package in last
    assert f'pip install "streamstores[{extra}]"' in last
