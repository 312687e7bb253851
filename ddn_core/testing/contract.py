"""Tests of the contract of a strategy: `parametrize_with_checks` for pytest, `check_strategy` without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ddn_core.errors import ArgumentError, StrategyError
from ddn_core.testing.checks import ALL_CHECKS, Strategy

if TYPE_CHECKING:
    import pytest

Failures = Mapping[str, Mapping[str, str]]


def check_strategy(strategy: Strategy, without: Sequence[str] = ()) -> None:
    """Run all checks on a strategy.

    Args:
        strategy: A criterion or a damping.
        without: Names of checks to leave out.

    Raises:
        AssertionError: The strategy fails a check; the message names the check and the mistake.
        ArgumentError: `without` has a name that is not a check.
    """
    _check_names_exist(without)
    for check in ALL_CHECKS:
        if check.__name__ in without:
            continue
        try:
            check(strategy)
        except (AssertionError, StrategyError) as error:
            raise AssertionError(f"{check.__name__}: {error}") from error


def parametrize_with_checks(
    strategies: Sequence[Strategy], expected_failures: Failures | None = None
) -> pytest.MarkDecorator:
    """Return a decorator that makes one pytest test for each pair of a strategy and a check.

    Example:
        >>> @parametrize_with_checks([SpectralFloor(), SignalToNoise(ratio=2.0)])
        ... def test_contract(strategy, check):
        ...     check(strategy)

    Args:
        strategies: Criteria and dampings.
        expected_failures: By kind, the checks that a strategy is expected to fail, with the reasons:
            `{"acme/floor": {"check_scales_with_the_loss": "the floor is absolute"}}`. If such a check passes, its test
            fails, so that this list stays correct.

    Raises:
        ArgumentError: `expected_failures` has a kind without strategy, or a name that is not a check.
    """
    import pytest  # here, so that the other tools of this package do not need pytest

    expected = expected_failures or {}
    _check_names_exist([name for checks in expected.values() for name in checks])
    kinds = {type(strategy).kind for strategy in strategies}
    if strange := sorted(set(expected) - kinds - {None}):
        raise ArgumentError(
            f"expected_failures names {strange[0]!r}, but no strategy has this kind. Correct the kind, or delete it."
        )
    cases = []
    for strategy in strategies:
        reasons = expected.get(type(strategy).kind or "", {})
        for check in ALL_CHECKS:
            name = check.__name__
            marks = [pytest.mark.xfail(reason=reasons[name], strict=True)] if name in reasons else []
            cases.append(pytest.param(strategy, check, id=f"{type(strategy).kind}-{name}", marks=marks))
    return pytest.mark.parametrize(("strategy", "check"), cases)


def check_names() -> list[str]:
    """Return the names of all checks, in the order in which they run."""
    return [check.__name__ for check in ALL_CHECKS]


def _check_names_exist(names: Sequence[str]) -> None:
    for name in names:
        if name not in check_names():
            raise ArgumentError(f"there is no check {name!r}. Use one of {', '.join(check_names())}.")
