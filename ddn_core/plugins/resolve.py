"""Conversion of a table, function or object to a strategy that belongs to one group."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from ddn_core.engine import Choice, Context
from ddn_core.errors import ConfigError, StrategyError
from ddn_core.plugins.messages import LONGEST_TEXT, error_lines, value_text
from ddn_core.plugins.reference import REGISTRY, WARN, AnyCriterion, AnyDamping
from ddn_core.plugins.registry import Registry
from ddn_core.plugins.sizes import depth_faults, integer_faults
from ddn_core.plugins.strategy import Criterion, Damping

M = TypeVar("M", bound=BaseModel)
A = TypeVar("A")
R = TypeVar("R")

_CRITERION: TypeAdapter[Criterion] = TypeAdapter(AnyCriterion)
_DAMPING: TypeAdapter[Damping] = TypeAdapter(AnyDamping)


def as_criterion(given: object, where: str, warn: bool = True, registry: Registry | None = None) -> Criterion:
    """Return a criterion for one group, which shares no state with the argument.

    Args:
        given: A criterion, a config table, or a function `criterion(evals) -> list[int]`.
        where: Place of the criterion, for messages, such as `group 0`.
        warn: If False, a function may select numerically zero directions without warning.
        registry: The plugins; by default the installed ones.

    Raises:
        ConfigError: `given` is none of these, or the table is invalid.
    """
    context = {WARN: warn, REGISTRY: registry}
    made = _checked(lambda: _CRITERION.validate_python(given, context=context), given, f"{where}, criterion")
    return made.model_copy(deep=True)


def as_damping(given: object, where: str, registry: Registry | None = None) -> Damping:
    """Return a damping for one group, which shares no state with the argument.

    Args:
        given: A damping, a config table, or a function `damping(evals, evecs, gammas, lambdas) -> Tensor`.
        where: Place of the damping, for messages, such as `group 0`.
        registry: The plugins; by default the installed ones.

    Raises:
        ConfigError: `given` is none of these, or the table is invalid.
    """
    context = {REGISTRY: registry}
    made = _checked(lambda: _DAMPING.validate_python(given, context=context), given, f"{where}, damping")
    return made.model_copy(deep=True)


def validated(model: type[M], given: object, where: str) -> M:
    """Return a pydantic object made from a table, or the object itself.

    Raises:
        ConfigError: The table is invalid.
    """
    return _checked(lambda: model.model_validate(given), given, where)


def group_choice(criterion: Criterion, damping: Damping, where: str) -> Choice:
    """Return criterion and damping of a group as the functions that the engine calls."""
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
        may_be_raised=damping.may_be_raised,
    )


def _keeps_all(criterion: Criterion) -> bool:
    return bool(criterion.guarded(criterion.keeps_all))


def leading_directions(criterion: Criterion) -> Callable[[Context], int | None]:
    """Return a function that computes the number of leading eigenpairs that a criterion needs."""

    def leading(context: Context) -> int | None:
        number: object = criterion.guarded(criterion.leading_directions, criterion.readable(context))
        if number is None or (isinstance(number, int) and not isinstance(number, bool) and number >= 0):
            return number
        raise StrategyError(
            f"{criterion.label()}: `leading_directions` returned {value_text(number)}; expected a number of "
            "directions, or None."
        )

    return leading


def uniform_damping(damping: Damping, context: Context) -> float | None:
    """Return the damping of every direction if it is known before the directions are, else `None`.

    Raises:
        StrategyError: `uniform` raised an exception, or returned no damping.
    """
    value: object = damping.guarded(damping.uniform, damping.readable(context))
    if value is None or (isinstance(value, int | float) and value >= 0):  # false for NaN
        return value
    raise StrategyError(
        f"{damping.label()}: `uniform` returned {value_text(value)}; expected a damping as a float, or None."
    )


def in_group(function: Callable[[A], R], where: str) -> Callable[[A], R]:
    """Return a function that calls a strategy, or one of its methods, and prefixes errors with the group."""

    def call(argument: A) -> R:
        try:
            return function(argument)
        except StrategyError as error:
            raise StrategyError(f"{where}: {error}") from error.__cause__

    return call


def _checked(validate: Callable[[], M], given: object, where: str) -> M:
    """Return the object that a function makes of a table or an object.

    Raises:
        ConfigError: It is invalid, nested too deeply, or has too large an integer.
    """
    faults = depth_faults(given)
    try:
        made = None if faults else validate()
    except ValidationError as error:
        lines = "; ".join(error_lines(error))
        raise ConfigError(f"{where}: {lines} (given: {value_text(given, LONGEST_TEXT)})") from error
    if made is None or (faults := integer_faults(given)):
        raise ConfigError(f"{where}: {'; '.join(faults)}")
    return made
