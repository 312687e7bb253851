"""Plain functions with ViViT's signatures, as strategies.

ViViT's criterion is `criterion(evals) -> list[int]`; it receives all R eigenvalues in ascending order, including those
that are numerically zero. Its damping is `damping(evals, evecs, gammas, lambdas) -> Tensor`.
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
    """Criterion that calls a function of all eigenvalues, and drops numerically zero directions from its selection."""

    function: Callable[..., Any]
    warn: bool = True

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy that shares the function, which may hold objects that cannot be copied."""
        return self.model_copy()

    def select(self, directions: Directions) -> Sequence[int] | Tensor:
        """Return the selection of the function, counted from the first numerically nonzero eigenvalue."""
        evals = directions.all_evals.clone()  # the function may change its argument
        null = len(evals) - len(directions)
        if not evals[null:].equal(directions.evals):
            raise StrategyError(
                f"{self.label()}: got a part of the directions, but a function needs the eigenvalues of all. Use it "
                "outside of combinators."
            )
        selected = self._checked(self.function(evals), len(evals), evals.device)
        kept = selected[selected >= null]
        if self.warn and (dropped := len(selected) - len(kept)):
            warnings.warn(
                f"{self.label()} selected {dropped} of {null} directions whose eigenvalue is numerically zero. These "
                "directions are noise and were dropped. Select fewer directions, or turn this warning off with "
                "warn_small_eigvals=0.",
                UserWarning,
                stacklevel=2,
            )
        return kept - null

    def table(self) -> dict[str, Any]:
        """Return a table with the name of the function; no config can load it."""
        return {"callable": self.label()}

    def label(self) -> str:
        """Return the family, and the name and module of the function, for messages."""
        return _function_label(self.family, self.function)


class CallableDamping(Damping):
    """Damping that calls a function of evals, evecs, gammas and lambdas."""

    function: Callable[..., Any]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy that shares the function, which may hold objects that cannot be copied."""
        return self.model_copy()

    def damp(self, directions: Directions) -> Tensor:
        """Return the dampings that the function computes."""
        quantities = (directions.evals, directions.evecs, directions.gammas, directions.lambdas)
        deltas: Tensor = self.function(*(quantity.clone() for quantity in quantities))
        return deltas

    def table(self) -> dict[str, Any]:
        """Return a table with the name of the function; no config can load it."""
        return {"callable": self.label()}

    def label(self) -> str:
        """Return the family, and the name and module of the function, for messages."""
        return _function_label(self.family, self.function)


def _function_label(family: str, function: Any) -> str:
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{family} {name!r} (a function of module {getattr(function, '__module__', '?')})"
