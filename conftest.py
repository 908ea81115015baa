"""Runs the Python examples of the README and the guides as tests."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


def in_an_empty_folder(namespace: dict[str, Any]) -> None:
    folder = tempfile.TemporaryDirectory()
    namespace["_folder"], namespace["_back"] = folder, Path.cwd()
    os.chdir(folder.name)


def back_again(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_back"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/stores/*.md", "docs/integrations/*.md"],
    # Whole programs, which tests/http/test_frameworks.py runs in processes.
    excludes=["docs/frameworks.md"],
    setup=in_an_empty_folder,
    teardown=back_again,
).pytest()
