"""Base classes of the two kinds of strategy: a criterion chooses directions, a damping damps them.

A strategy is a frozen pydantic model. Its fields are its schema, its docstring is its documentation, its one method
is its formula. The engine and combinators call the strategy itself; the base class checks what comes back.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch
from torch import Tensor

from ddn_core.errors import PluginError, StrategyError
from ddn_core.plugins.component import Component

if TYPE_CHECKING:
    from ddn_core.engine import Directions
    from ddn_core.plugins.outcome import Outcome

REQUIREMENTS = frozenset({"loss_after"})
"""What a strategy can ask for beyond the directions."""


class Strategy(Component, ABC):
    """What criteria and dampings have in common.

    A strategy that adapts keeps its state in private attributes (`_radius: float = PrivateAttr(1.0)`), changes it in
    `observe`, and gets `state_dict` and `load_state_dict` from here.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    """What the strategy needs beyond the directions and has to be paid for: `"loss_after"`, the loss after the step."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Check the class variables that a subclass sets."""
        super().__pydantic_init_subclass__(**kwargs)
        if unknown := sorted(cls.requires - REQUIREMENTS):
            raise PluginError(f"{cls.__qualname__}.requires names {unknown}; known are {sorted(REQUIREMENTS)}.")

    def observe(self, outcome: Outcome) -> None:  # optional to override
        """Take note of what the step did; called after each step. Does nothing by default."""

    @final
    def all_requirements(self) -> frozenset[str]:
        """Return what this strategy and those inside it require."""
        return self.requires.union(*(inner.all_requirements() for _, inner in self._inner()))

    @final
    def is_static(self) -> bool:
        """Return whether neither this strategy nor one inside it observes anything."""
        return type(self).observe is Strategy.observe and all(inner.is_static() for _, inner in self._inner())

    @final
    def notify(self, outcome: Outcome) -> None:
        """Let the strategies inside this one, and then itself, observe what the step did."""
        for _, inner in self._inner():
            inner.notify(outcome)
        self._guard("observe", self.observe, outcome)

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
        """Yield the strategies in the fields, at any depth of lists and tables, with their paths."""
        places: list[tuple[str, Any]] = [(name, getattr(self, name)) for name in reversed(type(self).model_fields)]
        while places:
            path, value = places.pop()
            if isinstance(value, Strategy):
                yield path, value
            elif isinstance(value, dict):
                places += [(f"{path}.{key}", item) for key, item in reversed(value.items())]
            elif isinstance(value, list | tuple):
                places += [(f"{path}.{index}", item) for index, item in reversed(list(enumerate(value)))]

    def _guard(self, verb: str, method: Any, argument: Any) -> Any:
        """Call a method that the author wrote; what it raises becomes a `StrategyError` that names the strategy."""
        try:
            return method(argument)
        except StrategyError:
            raise
        except Exception as error:
            raise StrategyError(f"{self.label()}: `{verb}` raised {type(error).__name__}: {error}") from error

    def _fault(self, verb: str, complaint: str) -> StrategyError:
        return StrategyError(f"{self.label()}: `{verb}` returned {complaint}.")


class Criterion(Strategy, ABC):
    """Chooses the directions of the step: the author writes `select`, callers call the criterion itself."""

    family: ClassVar[str] = "criterion"

    @abstractmethod
    def select(self, directions: Directions) -> Sequence[int] | Tensor:
        """Return the indices of the directions to keep, `[K]`, each once; there is at least one to choose from."""

    def leading_directions(self) -> int | None:
        """Return how many leading eigenpairs suffice to select from, `None` if all are needed (the default)."""
        return None

    def keeps_all(self) -> bool:
        """Return whether every direction is selected, whatever the directions are; False by default.

        Together with a damping that is `uniform`, no eigenvectors need to be computed.
        """
        return False

    @final
    def __call__(self, directions: Directions) -> Tensor:
        """Return the checked indices of the directions to keep, int64 `[K]`.

        Raises:
            StrategyError: `select` raised, or returned no unique, in-range indices.
        """
        return self._checked_indices(
            self._guard("select", self.select, directions), len(directions), directions.evals.device
        )

    def _checked_indices(self, returned: Any, count: int, device: torch.device) -> Tensor:
        """Return `returned` as int64 `[K]`, or raise if it does not choose from `count` directions."""
        try:
            indices = torch.as_tensor(returned, device=device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._fault("select", f"{returned!r}, which is no list of indices") from error
        if indices.numel() == 0:
            return torch.zeros(0, dtype=torch.long, device=device)
        if indices.dim() != 1:
            raise self._fault("select", f"indices of shape {list(indices.shape)}; expected one axis, [K]")
        if indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex():
            raise self._fault(
                "select", f"indices of dtype {indices.dtype}; expected integers (of a mask, mask.nonzero()[:, 0])"
            )
        lowest, highest = int(indices.min()), int(indices.max())
        if lowest < 0 or highest >= count:
            raise self._fault("select", f"index {lowest if lowest < 0 else highest}; there are {count} directions")
        if len(set(indices.tolist())) != len(indices):
            raise self._fault("select", "an index more than once")
        return indices.long()


class Damping(Strategy, ABC):
    """Damps the directions of the step: the author writes `damp`, callers call the damping itself."""

    family: ClassVar[str] = "damping"

    @abstractmethod
    def damp(self, directions: Directions) -> Tensor:
        """Return the dampings δ_k, `[K]`, loss/param²; there is at least one direction."""

    def uniform(self) -> float | None:
        """Return the damping of every direction, if it is one number whatever they are; `None` by default."""
        return None

    @final
    def __call__(self, directions: Directions) -> Tensor:
        """Return the checked dampings, `[K]`.

        Raises:
            StrategyError: `damp` raised, or returned something of another shape, dtype or device, a NaN, or a value
                that leaves λ̄ + δ not positive.
        """
        deltas = self._guard("damp", self.damp, directions)
        evals = directions.evals
        if not isinstance(deltas, Tensor):
            raise self._fault("damp", f"a {type(deltas).__name__}; expected a tensor of shape [{len(directions)}]")
        if deltas.shape != evals.shape:
            raise self._fault(
                "damp", f"dampings of shape {list(deltas.shape)}; expected [{len(directions)}], one for each direction"
            )
        if deltas.dtype != evals.dtype or deltas.device != evals.device:
            raise self._fault(
                "damp",
                f"dampings of {deltas.dtype} on {deltas.device}; expected {evals.dtype} on {evals.device}, as of evals",
            )
        if bool(deltas.isnan().any()):
            raise self._fault("damp", f"NaN for direction {int(deltas.isnan().nonzero()[0])}")
        curvatures = directions.loss_lambdas + deltas
        if bool((curvatures <= 0).any()):
            worst = int(curvatures.argmin())
            raise self._fault(
                "damp",
                f"{float(deltas[worst]):g} for direction {worst}, whose curvature is "
                f"{float(directions.loss_lambdas[worst]):g}; their sum must be positive",
            )
        return deltas.detach()
