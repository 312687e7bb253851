"""The contract of a strategy as tests: `parametrize_with_checks` for pytest, `check_strategy` for anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ddn_core.errors import ArgumentError
from ddn_core.testing.checks import ALL_CHECKS, Strategy

if TYPE_CHECKING:
    import pytest

Failures = Mapping[str, Mapping[str, str]]


def check_strategy(strategy: Strategy, without: Sequence[str] = ()) -> None:
    """Run every check on a strategy.

    Args:
        strategy: A criterion or a damping, set up.
        without: Names of checks to leave out.

    Raises:
        AssertionError: A promise is broken; the message says which, and how.
        ArgumentError: There is no check of a name.
    """
    _known(without)
    for check in ALL_CHECKS:
        if check.__name__ in without:
            continue
        try:
            check(strategy)
        except AssertionError as error:
            raise AssertionError(f"{check.__name__}: {error}") from error


def parametrize_with_checks(
    strategies: Sequence[Strategy], expected_failures: Failures | None = None
) -> pytest.MarkDecorator:
    """Return a decorator that makes a pytest test of each strategy and each check.

    Example:
        >>> @parametrize_with_checks([SpectralFloor(), SignalToNoise(ratio=2.0)])
        ... def test_contract(strategy, check):
        ...     check(strategy)

    Args:
        strategies: Criteria and dampings, set up.
        expected_failures: By kind, the checks that a strategy does not pass, with the reasons:
            `{"acme/floor": {"check_scales_with_the_loss": "the floor is absolute"}}`. A check that passes though it is
            named here fails, so that what is told stays true.

    Raises:
        ArgumentError: There is no check of a name, or no strategy of a kind.
    """
    import pytest  # here, so that the other tools of this package do without

    expected = expected_failures or {}
    _known([name for checks in expected.values() for name in checks])
    kinds = {type(strategy).kind for strategy in strategies}
    if strange := sorted(set(expected) - kinds - {None}):
        raise ArgumentError(f"expected_failures names {strange[0]!r}, but no strategy has this kind.")
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


def _known(names: Sequence[str]) -> None:
    for name in names:
        if name not in check_names():
            raise ArgumentError(f"there is no check {name!r}; there are {', '.join(check_names())}.")
