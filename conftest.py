"""Runs the Python examples of the README and the guides as tests."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import SkipTest

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser


class InOrder(PythonEvaluator):
    """Runs the examples before an example first, because xdist may have given those to another
    process, and an example may use the names of earlier ones."""

    def __call__(self, example: Example) -> None:
        done = example.namespace.setdefault("_done", set())
        for earlier in example.document.examples():
            if earlier.start < example.start and earlier.start not in done:
                done.add(earlier.start)
                with suppress(SkipTest):
                    earlier.evaluate()
        done.add(example.start)
        super().__call__(example)


def in_an_empty_folder(namespace: dict[str, Any]) -> None:
    folder = tempfile.TemporaryDirectory()
    namespace["_folder"], namespace["_back"] = folder, Path.cwd()
    os.chdir(folder.name)


def back_again(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_back"])
    namespace["_folder"].cleanup()


PATTERNS = ["README.md", "docs/*.md", "docs/stores/*.md", "docs/integrations/*.md"]

pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", InOrder()), SkipParser()],
    patterns=PATTERNS,
    # Whole programs, which tests run in processes.
    excludes=["docs/frameworks.md", "docs/telemetry.md", "docs/tutorial.md"],
    setup=in_an_empty_folder,
    teardown=back_again,
).pytest()
