"""Without the package that it needs, a module says what to install."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from streamstores import integrations

NEEDED = {
    "http": ("starlette", "http"),
    "http.monitor": ("starlette", "http"),
    "integrations.a2a": ("a2a", "a2a"),
    "integrations.ag_ui": ("starlette", "http"),
    "integrations.ai_sdk": ("starlette", "http"),
    "integrations.assistant_stream": ("assistant_stream", "assistant-stream"),
    "integrations.langgraph": ("starlette", "http"),
    "integrations.mcp": ("mcp", "mcp"),
    "integrations.models": ("starlette", "http"),
    "integrations.openai_responses": ("starlette", "http"),
    "integrations.opentelemetry": ("opentelemetry", "otel"),
    "integrations.sources": ("starlette", "http"),
}
"""The package that a module cannot be imported without, and the extra that brings it."""


def test_each_integration_is_listed() -> None:
    modules = [each.name for each in pkgutil.iter_modules(integrations.__path__)]
    public = {f"integrations.{name}" for name in modules if not name.startswith("_")}
    assert public == {name for name in NEEDED if name.startswith("integrations.")}


@pytest.mark.parametrize("module", NEEDED)
def test_a_missing_package_is_named_with_its_extra(module: str) -> None:
    package, extra = NEEDED[module]
    code = f"import sys; sys.modules[{package!r}] = None; import streamstores.{module}"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("ImportError: streamstores.")
    assert package in last
    assert f'pip install "streamstores[{extra}]"' in last
