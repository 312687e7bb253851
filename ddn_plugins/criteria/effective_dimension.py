"""Keep as many directions as there are effective parameters for a given damping."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat

from ddn_core.api import Criterion, Unit

if TYPE_CHECKING:
    from ddn_core.api import Directions


class EffectiveDimension(Criterion, kind="effective-dimension"):
    """Keep the d leading directions, with d the effective dimension `Σ_k λ_k / (λ_k + value)`, rounded up.

    Source: MacKay 1992, "Bayesian interpolation"; Maddox, Benton, Wilson 2020, "Rethinking parameter
    counting in deep models: effective dimensionality revisited".

    A direction counts about 1 if its eigenvalue is far above the damping, and about 0 if it is far below. The kept
    directions are therefore those that the data determine, rather than the damping.
    """

    value: Annotated[PositiveFloat, Unit("loss/param²")] = Field(1.0, description="Damping in the formula for d.")

    def select(self, directions: Directions) -> range:
        """Return the indices of the largest eigenvalues."""
        evals = directions.evals.double()
        dimension = math.ceil(float((evals / (evals + self.value)).sum()))
        return range(len(directions) - min(dimension, len(directions)), len(directions))
