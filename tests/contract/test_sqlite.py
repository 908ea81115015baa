"""The SQLite store against the contract, at both durabilities, and with a second process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from streamstores import SQLiteStreamStore
from streamstores.conformance import Target, contract_tests


@pytest.fixture(params=["process", pytest.param("power", marks=pytest.mark.release)])
def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    path = tmp_path / "streams.db"
    url = f"sqlite:///{path}?durability={request.param}"
    return Target(partial(SQLiteStreamStore, path, durability=request.param), url)


test_contract = contract_tests("sqlite")
