"""Without the extra `http`, an import says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["streamstores.http", "streamstores.http.monitor"])
@pytest.mark.parametrize("missing", ["starlette"])
def test_a_missing_extra_is_named(module: str, missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert missing in last
    assert 'pip install "streamstores[http]"' in last
