"""The store of the guide for authors, against the whole contract."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from examples.folder_store import FolderStreamStore

from streamstores import InvalidRequest, StreamStore
from streamstores.conformance import Target, all_checks, contract_tests, model_tests

FOLDER = "STREAMSTORES_EXAMPLE_FOLDER"


def make_store() -> FolderStreamStore:
    return FolderStreamStore(os.environ[FOLDER])


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setenv(FOLDER, str(tmp_path / "streams"))
    return Target(make_store, "tests.contract.test_example_store:make_store")


# The guide tests its store in the same way; this is the run that CI keeps.
test_contract = pytest.mark.long(contract_tests("target"))
test_model = model_tests("target")


def test_the_example_is_a_store_and_is_made_by_its_url(tmp_path: Path) -> None:
    store: StreamStore = FolderStreamStore.from_url(f"folder://{tmp_path}?poll_interval=0.2")
    assert store.limits.poll_interval == 0.2
    assert repr(store) == f"<FolderStreamStore {tmp_path}>"


@pytest.mark.parametrize(
    "url", ["folder://", "folder:///", "folder://host/x", "folder:///x?poll=1", "file:///x"]
)
def test_a_wrong_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        FolderStreamStore.from_url(url)


def test_the_guide_names_checks_that_there_are() -> None:
    guide = Path(__file__).parents[2] / "docs" / "writing-a-store.md"
    named = set(re.findall(r"clause\d\d-[a-z0-9-]+", guide.read_text(encoding="utf-8")))
    assert named
    assert named <= {check.id for check in all_checks()}
