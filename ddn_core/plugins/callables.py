"""Plain functions with ViViT's signatures, as strategies.

ViViT's criterion is `criterion(evals) -> list[int]` and sees all R eigenvalues, ascending, numerically zero ones too;
its damping is `damping(evals, evecs, gammas, lambdas) -> Tensor`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from ddn_core.errors import StrategyError
from ddn_core.plugins.strategy import Criterion, Damping

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.engine import Directions


class CallableCriterion(Criterion):
    """A function of all eigenvalues as a criterion; numerically zero directions that it selects are dropped."""

    function: Callable[..., Any]
    warn: bool = True

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy with the very same function: it may hold what cannot be copied, and has no state of ours."""
        return self.model_copy()

    def select(self, directions: Directions) -> Sequence[int] | Tensor:
        """Return what the function selects, counted from the first numerically nonzero eigenvalue."""
        evals = directions.all_evals.clone()  # what a function does to its arguments is its own affair
        null = len(evals) - len(directions)
        if not evals[null:].equal(directions.evals):
            raise StrategyError(
                f"{self.label()} was given some of the directions, but a function counts from all of them."
            )
        selected = self._checked(self.function(evals), len(evals), evals.device)
        kept = selected[selected >= null]
        if self.warn and (dropped := len(selected) - len(kept)):
            warnings.warn(
                f"{self.label()} selected {dropped} of {null} directions whose eigenvalue is numerically zero: the "
                "directions are noise, and are dropped. Select fewer directions, or silence this with "
                "warn_small_eigvals=0.",
                UserWarning,
                stacklevel=2,
            )
        return kept - null

    def table(self) -> dict[str, Any]:
        """Return a table that names the function; it cannot be loaded from a config."""
        return {"callable": self.label()}

    def label(self) -> str:
        """Return the family and the function's name and module."""
        return _function_label(self.family, self.function)


class CallableDamping(Damping):
    """A function of evals, evecs, gammas and lambdas as a damping."""

    function: Callable[..., Any]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy with the very same function: it may hold what cannot be copied, and has no state of ours."""
        return self.model_copy()

    def damp(self, directions: Directions) -> Tensor:
        """Return what the function returns."""
        quantities = (directions.evals, directions.evecs, directions.gammas, directions.lambdas)
        deltas: Tensor = self.function(*(quantity.clone() for quantity in quantities))
        return deltas

    def table(self) -> dict[str, Any]:
        """Return a table that names the function; it cannot be loaded from a config."""
        return {"callable": self.label()}

    def label(self) -> str:
        """Return the family and the function's name and module."""
        return _function_label(self.family, self.function)


def _function_label(family: str, function: Any) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{family} {name!r} (a function of module {getattr(function, '__module__', '?')})"
