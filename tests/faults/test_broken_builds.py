"""A line of each store is changed, and the histories or the contract's checks notice it."""

from __future__ import annotations

import pytest

from tests.faults.broken_builds import BUILDS, ONLY_CHECKS, Build, place, run

# Those on S3, and those that only the checks of the contract notice, take up to minutes each.
QUICK = [each for each in BUILDS if each.store != "s3" and each.what not in ONLY_CHECKS]


@pytest.mark.long
@pytest.mark.parametrize("build", QUICK, ids=lambda build: f"{build.store}: {build.what}")
def test_a_changed_line_is_noticed(build: Build) -> None:
    with place(build.store) as url:
        assert run(build, url).by is not None
