"""Base classes of the two kinds of strategy: a criterion chooses directions, a damping damps them.

A strategy is a frozen pydantic model. Its fields are its schema, its docstring is its documentation, its one method
is its formula. The engine and combinators call the strategy itself; the base class checks what comes back.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, final

from pydantic import BaseModel

from ddn_core.errors import PluginError, StrategyError
from ddn_core.plugins.component import Component
from ddn_core.plugins.units import unit_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ddn_core.engine import Context, Directions, Outcome

REQUIREMENTS = frozenset({"loss_after", "outcome"})
"""What a strategy can ask for beyond the directions."""


R = TypeVar("R")


class Strategy(Component, ABC):
    """What criteria and dampings have in common.

    A strategy that adapts keeps its state in private attributes (`_radius: float = PrivateAttr(1.0)`), changes it in
    `observe`, and gets `state_dict` and `load_state_dict` from here.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    """What the strategy needs beyond the directions and has to be paid for.

    `"loss_after"`: the loss after the step, in the outcome. `"outcome"`: `directions.context.last`, what the last step
    did; a strategy with `observe` has it anyway.
    """

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Check the class variables that a subclass sets."""
        super().__pydantic_init_subclass__(**kwargs)
        if not isinstance(cls.requires, frozenset | set):
            raise PluginError(f"{cls.__qualname__}.requires is {cls.requires!r}; expected a frozenset of names.")
        if unknown := sorted(cls.requires - REQUIREMENTS):
            raise PluginError(f"{cls.__qualname__}.requires names {unknown}; known are {sorted(REQUIREMENTS)}.")

    def observe(self, outcome: Outcome) -> None:  # optional to override
        """Take note of what the step did; called after each step. Does nothing by default."""

    @final
    def all_requirements(self) -> frozenset[str]:
        """Return what this strategy and those inside it require."""
        return self.requires.union(*(inner.all_requirements() for _, inner in self._inner()))

    @final
    def is_indifferent(self) -> bool:
        """Return whether neither this strategy nor one inside it wants to know what a step did."""
        own = type(self).observe is Strategy.observe and not self.requires
        return own and all(inner.is_indifferent() for _, inner in self._inner())

    @final
    def notify(self, outcome: Outcome) -> None:
        """Let the strategies inside this one, and then itself, observe what the step did."""
        self.notify_inner(outcome)
        self.guarded(self.observe, outcome)

    def notify_inner(self, outcome: Outcome) -> None:
        """Let the strategies inside this one observe what the step did."""
        for _, inner in self._inner():
            inner.notify(outcome)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data: the private attributes, and the states of the strategies inside."""
        state: dict[str, Any] = {"own": copy.deepcopy(self.__pydantic_private__ or {})}
        if inner := {name: strategy.state_dict() for name, strategy in self._inner()}:
            state["inner"] = inner
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` of an equal strategy returned.

        Raises:
            StrategyError: The state belongs to a strategy of another make; nothing has been changed.
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
                    f"{self.label()} cannot take over a state with {sorted(state.get(part, {}))}; "
                    f"it has {sorted(mine.get(part, {}))}. Load it into the configuration it was saved from."
                )
        for name, strategy in self._inner():
            strategy.check_state(state["inner"][name])

    def _inner(self) -> Iterator[tuple[str, Strategy]]:
        """Yield the strategies in the fields, at any depth of lists, tables and models, with their paths."""
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
        """Return the same strategy for a problem whose losses and parameters are larger by constant factors.

        Each field is multiplied by the factor of its unit. State is not taken along.

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
    def guarded(self, method: Callable[..., R], *arguments: Any) -> R:
        """Call a method that the author wrote; what it raises becomes a `StrategyError` that names the strategy."""
        try:
            return method(*arguments)
        except StrategyError:
            raise
        except (Exception, SystemExit) as error:
            name = getattr(method, "__name__", "?")
            raise StrategyError(f"{self.label()}: `{name}` raised {type(error).__name__}: {error}") from error


class Criterion(Strategy, ABC):
    """Chooses the directions of the step: the author writes `select`, callers call the criterion itself."""

    family: ClassVar[str] = "criterion"

    @abstractmethod
    def select(self, directions: Directions) -> Sequence[int] | Tensor:
        """Return the indices of the directions to keep, `[K]`, each once; there is at least one to choose from."""

    def leading_directions(self, context: Context) -> int | None:
        """Return how many leading eigenpairs suffice to select from, `None` if all are needed (the default)."""
        return None

    def keeps_all(self) -> bool:
        """Return whether every direction is selected, whatever the directions are; False by default.

        Together with a damping that is `uniform`, no eigenvectors need to be computed.
        """
        return False

    @final
    def __call__(self, directions: Directions) -> Tensor:
        """Return the checked indices of the directions to keep, int64 `[K]`; `select` is not asked where there is none.

        Raises:
            StrategyError: `select` raised, or returned no unique, in-range indices.
        """
        returned = self.guarded(self.select, directions) if len(directions) else []
        return self._checked(returned, len(directions), directions.evals.device)

    def _checked(self, returned: Any, count: int, device: torch.device) -> Tensor:
        from ddn_core.plugins.checks import checked_indices  # here, so that a schema is had without torch

        return checked_indices(self.label, returned, count, device)


class Damping(Strategy, ABC):
    """Damps the directions of the step: the author writes `damp`, callers call the damping itself."""

    family: ClassVar[str] = "damping"

    @abstractmethod
    def damp(self, directions: Directions) -> Tensor:
        """Return the dampings δ_k, `[K]`, loss/param²; there is at least one direction."""

    def uniform(self, context: Context) -> float | None:
        """Return the damping of every direction, if it is one number whatever they are; `None` by default."""
        return None

    @final
    def __call__(self, directions: Directions) -> Tensor:
        """Return the checked dampings, `[K]`; `damp` is not asked where there is no direction.

        Raises:
            StrategyError: `damp` raised, or returned something of another shape, dtype or device, a NaN, or a value
                that leaves λ̄ + δ not positive.
        """
        from ddn_core.plugins.checks import checked_dampings  # here, so that a schema is had without torch

        returned = self.guarded(self.damp, directions) if len(directions) else directions.evals.clone()
        return checked_dampings(self.label, returned, directions)
