"""The contract as a program: does a store keep what `streamstores.store` promises?

With pytest:

    from streamstores.conformance import contract_tests, history_tests, model_tests

    test_contract = contract_tests(make_store)
    test_model = model_tests(make_store)
    test_history = history_tests(make_store)

Without it: `streamstores check URL`, or `run_checks(all_checks(), Target(make_store))`.
pytest and Hypothesis are imported only when one of these three functions is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamstores.conformance import checks as checks
from streamstores.conformance.harness import Harness, NotOffered, Target, target_of
from streamstores.conformance.registry import CLAUSES, Check, registered
from streamstores.conformance.runner import Report, Result, run_check, run_checks

if TYPE_CHECKING:
    from streamstores.conformance.model import model_tests as model_tests
    from streamstores.conformance.pytest_items import contract_tests as contract_tests
    from streamstores.conformance.pytest_items import history_tests as history_tests

# The three are left out, so that `import *` needs neither pytest nor Hypothesis.
__all__ = [
    "CLAUSES",
    "Check",
    "Harness",
    "NotOffered",
    "Report",
    "Result",
    "Target",
    "all_checks",
    "run_check",
    "run_checks",
    "target_of",
]

_LAZY = {
    "contract_tests": "pytest_items",
    "history_tests": "pytest_items",
    "model_tests": "model",
}


def all_checks() -> tuple[Check, ...]:
    """Every check of the contract, by clause."""
    return registered()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module = import_module(f"{__name__}.{_LAZY[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
