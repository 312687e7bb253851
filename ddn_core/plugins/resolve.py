"""From what a user gives for a criterion or a damping to a group's own strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from ddn_core.engine import Choice, Context
from ddn_core.errors import ConfigError, StrategyError
from ddn_core.plugins.messages import error_lines
from ddn_core.plugins.reference import WARN, AnyCriterion, AnyDamping
from ddn_core.plugins.strategy import Criterion, Damping

M = TypeVar("M", bound=BaseModel)
A = TypeVar("A")
R = TypeVar("R")

_CRITERION: TypeAdapter[Criterion] = TypeAdapter(AnyCriterion)
_DAMPING: TypeAdapter[Damping] = TypeAdapter(AnyDamping)


def as_criterion(given: object, where: str, warn: bool = True) -> Criterion:
    """Return a criterion of the group's own: state is not shared with any other group.

    Args:
        given: A criterion, a config table, or a function `criterion(evals) -> list[int]`.
        where: What the criterion is for, for messages: `group 0`.
        warn: Whether a function that selects numerically zero directions causes a warning.

    Raises:
        ConfigError: `given` is none of these, or the table is wrong.
    """
    try:
        return _CRITERION.validate_python(given, context={WARN: warn}).model_copy(deep=True)
    except ValidationError as error:
        raise _wrong(error, f"{where}, criterion", given) from error


def as_damping(given: object, where: str) -> Damping:
    """Return a damping of the group's own: state is not shared with any other group.

    Args:
        given: A damping, a config table, or a function `damping(evals, evecs, gammas, lambdas) -> Tensor`.
        where: What the damping is for, for messages: `group 0`.

    Raises:
        ConfigError: `given` is none of these, or the table is wrong.
    """
    try:
        return _DAMPING.validate_python(given).model_copy(deep=True)
    except ValidationError as error:
        raise _wrong(error, f"{where}, damping", given) from error


def validated(model: type[M], given: object, where: str) -> M:
    """Return a model object from an object or a table.

    Raises:
        ConfigError: The table is wrong.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _wrong(error, where, given) from error


def group_choice(criterion: Criterion, damping: Damping, where: str) -> Choice:
    """Return what a criterion and a damping choose in a group, for the engine."""
    keeps_all = in_group(_keeps_all, where)(criterion)

    def uniform(context: Context) -> float | None:
        value = uniform_damping(damping, context) if keeps_all else None
        return value if value is not None and 0 < value < float("inf") else None

    return Choice(
        criterion=in_group(criterion, where),
        damping=in_group(damping, where),
        largest=in_group(leading_directions(criterion), where),
        uniform_damping=in_group(uniform, where),
        keeps_all=keeps_all,
    )


def _keeps_all(criterion: Criterion) -> bool:
    return bool(criterion.guarded(criterion.keeps_all))


def leading_directions(criterion: Criterion) -> Callable[[Context], int | None]:
    """Return what gives the number of leading eigenpairs that a criterion needs."""

    def leading(context: Context) -> int | None:
        number: object = criterion.guarded(criterion.leading_directions, context)
        if number is None or (isinstance(number, int) and not isinstance(number, bool) and number >= 0):
            return number
        raise StrategyError(
            f"{criterion.label()}: `leading_directions` returned {number!r}; expected a number of directions, or None."
        )

    return leading


def uniform_damping(damping: Damping, context: Context) -> float | None:
    """Return the damping of every direction that a damping tells beforehand, or `None`.

    Raises:
        StrategyError: It raised, or told something that is no damping.
    """
    value: object = damping.guarded(damping.uniform, context)
    if value is None or (isinstance(value, int | float) and value >= 0):  # NaN is not
        return value
    raise StrategyError(f"{damping.label()}: `uniform` returned {value!r}; expected a damping as a float, or None.")


def in_group(function: Callable[[A], R], where: str) -> Callable[[A], R]:
    """Return a strategy, or a method of one, whose errors are preceded by the group it acts in."""

    def call(argument: A) -> R:
        try:
            return function(argument)
        except StrategyError as error:
            raise StrategyError(f"{where}: {error}") from error.__cause__

    return call


def _wrong(error: ValidationError, where: str, given: Any) -> ConfigError:
    return ConfigError(f"{where}: {'; '.join(error_lines(error))} (given: {given!r})")
