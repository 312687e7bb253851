"""The same damping for every direction: a fraction of the spectrum's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import uniform_deltas

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class Relative(Damping, kind="relative"):
    """δ_k = fraction · max λ, or fraction · mean λ, over the chosen directions; or fraction · trace(G) / min(R, P).

    Source: the usual scaling of Levenberg's damping; Nielsen 1999, "Damping parameter in Marquardt's method", starts
    with a fraction of the largest diagonal entry.

    The damping scales with the loss, so that the step does not depend on the unit of the loss.

    When it fails: δ vanishes together with the curvature once most samples are fitted, faster than the gradients of
    samples that are wrong, so steps become too long. Bound them with `max_step_norm`, such as 1, or raise `fraction` to
    0.1 with `max`, or to 10 with `trace`.
    """

    fraction: Annotated[NonNegativeFloat, Unit("1")] = Field(1e-2, description="Fraction of the reference.")
    of: Literal["max", "mean", "trace"] = Field(
        "max",
        description="Reference: the largest (`max`) or the mean (`mean`) eigenvalue of the chosen directions, or the "
        "trace of G divided by min(R, P) (`trace`), which needs no eigenvalues.",
    )

    def uniform(self, context: Context) -> float | None:
        """Return the fraction of the trace if that is the reference; it needs no eigenvalues."""
        return self.fraction * context.mean_curvature if self.of == "trace" else None

    def damp(self, directions: Directions) -> Tensor:
        """Return the fraction of the reference for each direction."""
        evals = directions.evals
        if self.of == "trace":
            return uniform_deltas(self.fraction * directions.context.mean_curvature, directions)
        reference = evals.max() if self.of == "max" else evals.double().mean().to(evals.dtype)  # a sum may overflow
        return (self.fraction * reference).expand_as(evals)
