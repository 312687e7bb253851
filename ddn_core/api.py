"""The module that plugins import: base classes, `Directions`, reference types, `hookimpl`.

A strategy is one class. Its fields are its schema, its docstring is its documentation, and its one method is its
formula::

    from typing import Annotated

    from pydantic import Field, PositiveFloat
    from torch import Tensor, full_like

    from ddn_core.api import Damping, Directions, Unit, hookimpl


    class SpectralFloor(Damping, kind="acme/spectral-floor"):
        '''Lift every direction to a fraction of the largest eigenvalue.'''

        fraction: Annotated[PositiveFloat, Unit("1")] = Field(1e-3, description="Fraction of the largest eigenvalue.")

        def damp(self, directions: Directions) -> Tensor:
            return full_like(directions.evals, self.fraction * float(directions.evals.max()))


    @hookimpl
    def ddn_dampings():
        return [SpectralFloor]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddn_core.plugins.discovery import API_VERSION
from ddn_core.plugins.hookspecs import hookimpl
from ddn_core.plugins.messages import TableModel
from ddn_core.plugins.problem import Problem, ProblemParts
from ddn_core.plugins.reference import AnyCriterion, AnyDamping, AnyProblem
from ddn_core.plugins.strategy import Criterion, Damping
from ddn_core.plugins.units import Unit, unit_of

if TYPE_CHECKING:
    from ddn_core.engine import Context, Directions, GivenNorms, Outcome

__all__ = [
    "API_VERSION",
    "AnyCriterion",
    "AnyDamping",
    "AnyProblem",
    "Context",
    "Criterion",
    "Damping",
    "Directions",
    "GivenNorms",
    "Outcome",
    "Problem",
    "ProblemParts",
    "TableModel",
    "Unit",
    "hookimpl",
    "unit_of",
]

_ENGINE_NAMES = ("Context", "Directions", "GivenNorms", "Outcome")


def __getattr__(name: str) -> Any:
    """Import a name of the engine when it is first used, so that a schema needs no torch."""
    if name not in _ENGINE_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import ddn_core.engine as engine

    return getattr(engine, name)
