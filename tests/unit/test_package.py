"""What `import streamstores` gives, and what it does not load."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import streamstores

DRIVERS = (
    *("aiosqlite", "asyncpg", "redis", "boto3", "httpx", "opentelemetry", "starlette"),
    *("typer", "pytest"),
)

CORE_MODULES = (
    *("appends", "building", "changes", "errors", "follow", "limits", "logs", "methods"),
    *("mutations", "observation", "store", "store_urls", "stored_form", "url_options"),
    *("values", "writer"),
)
TYPING = {"Any", "TYPE_CHECKING", "annotations"}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_import_loads_no_driver():
    code = f"import sys, streamstores; print([d for d in {DRIVERS} if d in sys.modules])"
    run = python(code)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("name", "url", "driver", "extra"),
    [
        ("SQLiteStreamStore", "sqlite:///x.db", "aiosqlite", "sqlite"),
        ("PostgresStreamStore", "postgresql://localhost/x", "asyncpg", "postgres"),
        ("RedisStreamStore", "redis://localhost", "redis", "redis"),
        ("S3StreamStore", "s3://bucket", "boto3", "s3"),
    ],
)
def test_a_missing_driver_names_its_extra(name, url, driver, extra):
    for use in (f"streamstores.{name}", f"streamstores.open_store({url!r})"):
        run = python(f"import sys; sys.modules[{driver!r}] = None; import streamstores; {use}")
        assert f'pip install "streamstores[{extra}]"' in run.stderr.splitlines()[-1]


def test_the_package_offers_what_it_declares_and_nothing_else():
    offered = {name for name in vars(streamstores) if not name.startswith("_")}
    modules = {name for name in offered if inspect.ismodule(getattr(streamstores, name))}
    assert offered - modules - TYPING == set(streamstores.__all__) - modules
    assert set(dir(streamstores)) >= {*streamstores.__all__, *streamstores._STORES}
    for name in streamstores._STORES:
        assert inspect.isclass(getattr(streamstores, name))
    with pytest.raises(AttributeError):
        _ = streamstores.NoSuchStreamStore


@pytest.mark.parametrize("name", CORE_MODULES)
def test_a_module_offers_what_it_declares_and_nothing_else(name):
    module = importlib.import_module(f"streamstores.{name}")
    public = {each: value for each, value in vars(module).items() if not each.startswith("_")}
    assert set(module.__all__) <= set(public)
    own = {
        each
        for each, value in public.items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }
    assert own <= set(module.__all__)
    if name == "building":  # it defines nothing: its public names are its imports
        assert set(public) - TYPING == set(module.__all__)


@pytest.mark.parametrize(
    "url", ["", "x.db", "ftp://x", "memory://x", "memory://?a=1", "postgresql://[::1/x", None]
)
def test_open_store_refuses_unknown_schemes_and_options(url):
    with pytest.raises(streamstores.InvalidRequest):
        streamstores.open_store(url)


async def test_open_store_finds_schemes_of_other_packages(monkeypatch):
    from importlib.metadata import EntryPoint

    from streamstores import store_urls

    point = EntryPoint("mine", "streamstores:MemoryStreamStore", store_urls.ENTRY_POINT_GROUP)
    monkeypatch.setattr(store_urls, "entry_points", lambda group: [point])
    monkeypatch.setattr(streamstores.MemoryStreamStore, "__init__", lambda self, url: None)
    store = streamstores.open_store("mine://x")
    assert isinstance(store, streamstores.MemoryStreamStore)
