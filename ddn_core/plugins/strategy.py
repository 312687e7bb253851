"""Base classes of the two kinds of strategy: a criterion chooses directions, a damping damps them.

A strategy is a frozen pydantic model. Its fields are its schema, its docstring is its documentation, and its one method
is its formula. The engine and combinators call the strategy object; the base class then calls the method and checks the
result.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, final

from pydantic import BaseModel

from ddn_core.errors import CurvatureError, PluginError, StrategyError
from ddn_core.plugins.component import Component
from ddn_core.plugins.messages import error_text
from ddn_core.plugins.units import unit_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddn_core.engine import Context, Directions, Outcome

REQUIREMENTS = frozenset({"loss_after", "outcome"})
"""Names of the additional information that a strategy can require."""


R = TypeVar("R")


class Strategy(Component, ABC):
    """Base class of criteria and dampings.

    An adaptive strategy keeps its state in private attributes (`_radius: float = PrivateAttr(1.0)`) and changes it in
    `observe`. `state_dict` and `load_state_dict` save and restore these attributes.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    """Additional information that the strategy needs, and that takes extra computation.

    `"loss_after"`: the loss after the step, in the outcome; strategies that do not declare it cannot read it.
    `"outcome"`: the outcome of the last step, as `directions.context.last`; a strategy that overrides `observe` always
    gets it.
    """

    accepts: ClassVar[frozenset[str]] = frozenset()
    """Additional information that the strategy uses if it is available, and does without otherwise.

    `"loss_after"`: the loss after the step, in the outcome of steps with a closure.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Raise a `PluginError` if the subclass sets `requires` or `accepts` to an invalid value."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, valid in (("requires", REQUIREMENTS), ("accepts", frozenset({"loss_after"}))):
            given = getattr(cls, name)
            if not isinstance(given, frozenset | set):
                raise PluginError(f"{cls.__qualname__}.{name} is {given!r}; expected a frozenset of names.")
            if unknown := sorted(given - valid):
                raise PluginError(f"{cls.__qualname__}.{name} names {unknown}; valid names are {sorted(valid)}.")

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a private attribute.

        Raises:
            StrategyError: The attribute is public, or is not declared, so that no state would contain it.
        """
        cls = type(self)
        if not name.startswith("_"):
            raise StrategyError(
                f"{self.label()} sets the attribute {name!r}, but a strategy cannot change its fields, which are the "
                f"user's settings. Keep state in a private attribute: declare `_{name}: ... = PrivateAttr(...)` in "
                f"{cls.__name__}, and set `self._{name}`."
            )
        if not name.startswith("__") and name not in cls.__private_attributes__:
            raise StrategyError(
                f"{self.label()} sets the attribute {name!r}, which is not declared, so that a resumed run would lose "
                f"it. Declare `{name}: ... = PrivateAttr(...)` in {cls.__name__}."
            )
        super().__setattr__(name, value)

    def observe(self, outcome: Outcome) -> None:  # optional to override
        """Adapt to the outcome of a step; called after each step, does nothing by default."""

    @final
    def all_requirements(self) -> frozenset[str]:
        """Return the requirements of this strategy and of those inside it."""
        return self.requires.union(*(inner.all_requirements() for _, inner in self._inner()))

    @final
    def all_accepted(self) -> frozenset[str]:
        """Return what this strategy and those inside it use if it is available."""
        return self.accepts.union(*(inner.all_accepted() for _, inner in self._inner()))

    @final
    def ignores_outcomes(self) -> bool:
        """Return whether neither this strategy nor any inside it uses the outcomes of steps."""
        ignores = type(self).observe is Strategy.observe and not self.requires
        return ignores and all(inner.ignores_outcomes() for _, inner in self._inner())

    @final
    def notify(self, outcome: Outcome) -> None:
        """Let the strategies inside this one observe the outcome of a step, and then this one."""
        self.notify_inner(outcome)
        declares = "loss_after" in self.requires | self.accepts
        self.guarded(self.observe, outcome if declares else outcome.read_by(self.label()))

    def notify_inner(self, outcome: Outcome) -> None:
        """Let the strategies inside this one observe the outcome of a step."""
        for _, inner in self._inner():
            inner.notify(outcome)

    @final
    def readable(self, context: Context) -> Context:
        """Return a context as this strategy may read it: with the loss after the last step only if that is declared."""
        if context.last is None or "loss_after" in self.all_requirements() | self.all_accepted():
            return context
        return context.read_by(self.label())

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data: the private attributes, and the states of the strategies inside."""
        state: dict[str, Any] = {"own": copy.deepcopy(self.__pydantic_private__ or {})}
        if inner := {name: strategy.saved_state() for name, strategy in self._inner()}:
            state["inner"] = inner
        return state

    @final
    def saved_state(self) -> dict[str, Any]:
        """Return the state, after checking that a checkpoint with it can be read again.

        Raises:
            StrategyError: The state has a value that is not plain data.
        """
        state = self.guarded(self.state_dict)
        if not self.__pydantic_private__ and type(self).state_dict is Strategy.state_dict:
            return state
        from ddn_core.plugins.checks import check_is_plain  # here, so that a schema needs no torch

        check_is_plain(self.label, state)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state that `state_dict` of an equal strategy returned.

        Raises:
            StrategyError: The state has other attributes than this strategy; nothing has been changed.
        """
        self.check_state(state)
        for name, value in state["own"].items():
            setattr(self, name, copy.deepcopy(value))
        for name, strategy in self._inner():
            strategy.load_state_dict(state["inner"][name])

    @final
    def check_state(self, state: dict[str, Any]) -> None:
        """Raise a `StrategyError` if the state does not fit this strategy and those inside it."""
        mine = self.state_dict()
        for part in ("own", "inner"):
            if set(state.get(part, {})) != set(mine.get(part, {})):
                raise StrategyError(
                    f"{self.label()} cannot load a state with {sorted(state.get(part, {}))}; its own state has "
                    f"{sorted(mine.get(part, {}))}. Load the state into a strategy with the same config."
                )
        for name, strategy in self._inner():
            strategy.check_state(state["inner"][name])

    def _inner(self) -> Iterator[tuple[str, Strategy]]:
        """Yield the strategies in the fields, at any depth of lists, tables and models, each with its path."""
        places: list[tuple[str, Any]] = [(name, getattr(self, name)) for name in reversed(type(self).model_fields)]
        while places:
            path, value = places.pop()
            if isinstance(value, Strategy):
                yield path, value
            elif isinstance(value, dict):
                places += [(f"{path}.{key}", item) for key, item in reversed(value.items())]
            elif isinstance(value, BaseModel):
                names = list(type(value).model_fields)
                places += [(f"{path}.{name}", getattr(value, name)) for name in reversed(names)]
            elif isinstance(value, list | tuple):
                places += [(f"{path}.{index}", item) for index, item in reversed(list(enumerate(value)))]

    def in_units(self, loss: float = 1.0, param: float = 1.0) -> Self:
        """Return the equivalent strategy for a problem whose losses and parameters are larger by constant factors.

        Each field is multiplied by the factor of its unit. The state is not copied.

        Args:
            loss: Factor on the loss.
            param: Factor on the parameters.
        """

        def scaled(value: Any, factor: float) -> Any:
            if isinstance(value, Strategy):
                return value.in_units(loss, param)
            if isinstance(value, BaseModel):
                return table(value)
            if isinstance(value, list | tuple):
                return [scaled(item, factor) for item in value]
            if isinstance(value, dict):
                return {key: scaled(item, factor) for key, item in value.items()}
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return factor * value if number and factor != 1 else value

        def table(model: BaseModel) -> dict[str, Any]:
            fields = type(model).model_fields
            units = {name: unit_of(field) for name, field in fields.items()}
            factors = {name: 1.0 if unit is None else unit.factor(loss, param) for name, unit in units.items()}
            return {field.alias or name: scaled(getattr(model, name), factors[name]) for name, field in fields.items()}

        return type(self).model_validate(table(self))

    @final
    def answered(self, method: Callable[[Directions], R], directions: Directions) -> R:
        """Call a method of the plugin on directions.

        Raises:
            StrategyError: It raised an exception, or changed the tensors of the directions in place.
        """
        context = self.readable(directions.context)
        given = directions if context is directions.context else directions.with_context(context)
        returned = self.guarded(method, given)
        if (name := given.changed_in_place()) is not None:
            raise StrategyError(
                f"{self.label()}: `{method.__name__}` changed `{name}` of the directions in place, which the step is "
                f"computed from. Work on a copy: `directions.{name}.clone()`."
            )
        return returned

    @final
    def guarded(self, method: Callable[..., R], *arguments: Any) -> R:
        """Call a method of the plugin; an exception in it becomes a `StrategyError` that names the strategy."""
        try:
            return method(*arguments)
        except (StrategyError, CurvatureError, KeyboardInterrupt):  # the engine computes figures when they are read
            raise
        except BaseException as error:
            name = getattr(method, "__name__", "?")
            raise StrategyError(f"{self.label()}: `{name}` raised {error_text(error)}") from error


class Criterion(Strategy, ABC):
    """Chooses the directions of the step: the author writes `select`, callers call the criterion itself."""

    family: ClassVar[str] = "criterion"

    @abstractmethod
    def select(self, directions: Directions) -> Sequence[int] | Tensor:
        """Return the indices of the directions to keep, `[K]`, without repetition; there is at least one direction."""

    def leading_directions(self, context: Context) -> int | None:
        """Return the number of leading eigenpairs that the selection needs; `None`, the default, stands for all."""
        return None

    def keeps_all(self) -> bool:
        """Return whether `select` keeps every direction in any case; False by default.

        If it does and the damping is `uniform`, no eigenvectors have to be computed.
        """
        return False

    @final
    def __call__(self, directions: Directions) -> Tensor:
        """Return the checked indices of the directions to keep, int64 `[K]`; without directions, `select` is skipped.

        Raises:
            StrategyError: `select` raised an exception, or returned no list of distinct, valid indices.
        """
        returned = self.answered(self.select, directions) if len(directions) else []
        return self._checked(returned, len(directions), directions.evals.device)

    def _checked(self, returned: Any, count: int, device: torch.device) -> Tensor:
        from ddn_core.plugins.checks import checked_indices  # here, so that a schema needs no torch

        return checked_indices(self.label, returned, count, device)


class Damping(Strategy, ABC):
    """Damps the directions of the step: the author writes `damp`, callers call the damping itself."""

    family: ClassVar[str] = "damping"

    may_be_raised: ClassVar[bool] = False
    """Whether a `uniform` damping below the rounding errors of the curvature may be raised to them.

    A linear solve then computes the step. Otherwise it is computed from eigenvectors, which takes several times longer.
    """

    @abstractmethod
    def damp(self, directions: Directions) -> Tensor:
        """Return the dampings δ_k, `[K]`, loss/param²; there is at least one direction."""

    def uniform(self, context: Context) -> float | None:
        """Return the damping if it is the same number for any direction; `None` by default."""
        return None

    @final
    def __call__(self, directions: Directions) -> Tensor:
        """Return the checked dampings, `[K]`; without directions, `damp` is skipped.

        Raises:
            StrategyError: `damp` raised an exception, or returned the wrong type, shape, dtype or device, a NaN, or a
                value that makes λ̄ + δ not positive.
        """
        from ddn_core.plugins.checks import checked_dampings  # here, so that a schema needs no torch

        returned = self.answered(self.damp, directions) if len(directions) else directions.evals
        return checked_dampings(self.label, returned, directions)
