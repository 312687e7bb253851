"""All that a plugin imports: base classes, `Directions`, reference types, `hookimpl`.

A strategy is one class. Its fields are its schema, its docstring is its documentation, its one method is its formula::

    from pydantic import Field, PositiveFloat
    from torch import Tensor, full_like

    from ddn_core.api import Damping, Directions, hookimpl


    class SpectralFloor(Damping, kind="acme/spectral-floor"):
        '''Lift every direction to a fraction of the largest eigenvalue.'''

        fraction: PositiveFloat = Field(1e-3, description="Fraction of the largest eigenvalue, without unit.")

        def damp(self, directions: Directions) -> Tensor:
            return full_like(directions.evals, self.fraction * float(directions.evals.max()))


    @hookimpl
    def ddn_dampings():
        return [SpectralFloor]
"""

from ddn_core.engine import Directions
from ddn_core.plugins.hookspecs import hookimpl
from ddn_core.plugins.outcome import Outcome
from ddn_core.plugins.problem import Problem, ProblemParts
from ddn_core.plugins.reference import AnyCriterion, AnyDamping, AnyProblem
from ddn_core.plugins.strategy import Criterion, Damping

__all__ = [
    "AnyCriterion",
    "AnyDamping",
    "AnyProblem",
    "Criterion",
    "Damping",
    "Directions",
    "Outcome",
    "Problem",
    "ProblemParts",
    "hookimpl",
]
