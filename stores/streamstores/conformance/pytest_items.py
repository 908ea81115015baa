"""The suite as pytest items: one item per check of the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Union

import pytest

from streamstores.conformance.harness import NotOffered, Target, target_of
from streamstores.conformance.histories import run_history
from streamstores.conformance.registry import Check, registered
from streamstores.conformance.runner import run_check

__all__ = ["StoresUnderTest", "contract_tests", "for_stores", "history_tests", "resolve"]

StoresUnderTest = Union[Callable[[], Any], Target, str]
"""A `make_store`, a `Target`, a store URL, `"module:callable"`, or the name of a pytest
fixture that gives any of these."""

TestFunction = Callable[..., None]


def contract_tests(
    make_store: StoresUnderTest,
    *,
    second_process: str | None = None,
    deviations: Mapping[str, str] | None = None,
) -> TestFunction:
    """A test function with one pytest item per check of the contract.

        test_contract = contract_tests(make_store)

    `make_store()` returns a store that is not entered yet (or an async context manager that
    yields a store); each call returns another object on the same backend. It may also be a
    `Target`, a store URL, `"module:callable"`, or the name of a fixture that returns any of
    these. So a session fixture may start the server, and a parametrized fixture may vary it.
    Every check calls `make_store` anew, inside its own event loop.

    `second_process`, a URL or `"module:callable"`, lets a second process open the backend.

    `deviations` maps check ids to the reason why this store departs from the contract there.
    Such a check must fail: if it passes, or if no check has that id, the run fails. Checks of
    what the store does not declare in its `capabilities` are skipped as "not offered".
    """
    declared = dict(deviations or {})
    checks = registered()
    params = [_param(check, declared.get(check.id)) for check in checks]
    known = {check.id for check in checks}
    # An item of its own that fails: raising here would take away the results of all the checks.
    params += [pytest.param(each, id=f"stale-{each}") for each in declared.keys() - known]

    @pytest.mark.parametrize("check", params)
    @for_stores(make_store)
    def test_contract(request: pytest.FixtureRequest, check: Check | str) -> None:
        __tracebackhide__ = True
        if isinstance(check, str):
            pytest.fail(f"a deviation names {check!r}, but no check has that id", pytrace=False)
        try:
            run_check(check, resolve(make_store, request, second_process))
        except NotOffered as exc:
            pytest.skip(f"not offered: {exc}")

    return test_contract


def history_tests(
    make_store: StoresUnderTest,
    *,
    second_process: str | None = None,
    seeds: Iterable[int] = range(20),
) -> TestFunction:
    """A test function with one pytest item per seed of `streamstores.conformance.histories`.

        test_history = history_tests(make_store)

    `make_store` and `second_process` are what `contract_tests` takes. Each item runs concurrent
    clients with the choices of its seed, and fails if no order of their calls explains what
    they saw.
    """

    @pytest.mark.parametrize("seed", seeds)
    @for_stores(make_store)
    def test_history(request: pytest.FixtureRequest, seed: int) -> None:
        __tracebackhide__ = True
        run_history(resolve(make_store, request, second_process), seed)

    return test_history


def for_stores(make_store: StoresUnderTest) -> Callable[[TestFunction], TestFunction]:
    """Make the test use the fixture, with its parameters, if `make_store` names a fixture."""

    def decorate(function: TestFunction) -> TestFunction:
        if is_fixture(make_store):
            return pytest.mark.usefixtures(str(make_store))(function)
        return function

    return decorate


def is_fixture(make_store: StoresUnderTest) -> bool:
    return isinstance(make_store, str) and ":" not in make_store


def resolve(
    make_store: StoresUnderTest, request: pytest.FixtureRequest, second_process: str | None
) -> Target:
    """The target that `make_store` describes; if it names a fixture, the fixture's value."""
    given: Any = make_store
    if is_fixture(make_store):
        given = request.getfixturevalue(str(make_store))
    target = target_of(given) if isinstance(given, str) else given
    if not isinstance(target, Target):
        target = Target(target)
    if second_process is not None:
        target = Target(target.make_store, second_process)
    return target


def _param(check: Check, deviation: str | None) -> Any:
    if deviation is None:
        return pytest.param(check, id=check.id)
    # Strict, so that a deviation that no longer exists is taken off the list.
    mark = pytest.mark.xfail(reason=deviation, strict=True)
    return pytest.param(check, id=check.id, marks=mark)
