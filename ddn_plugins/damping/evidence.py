"""The damping with the largest Bayesian evidence, after MacKay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import uniform_deltas
from ddn_plugins._newton import root_from_left

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Evidence(Damping, kind="evidence"):
    """δ_k = δ with `δ = T γ_eff / (N ‖θ‖²)` and the effective number of parameters `γ_eff = Σ_k λ_k / (λ_k + δ)`.

    Source: MacKay 1992, "Bayesian interpolation".

    The loss is interpreted as the negative log-likelihood of N samples, and the damping as the precision of a Gaussian
    prior on the group's parameters θ. The fixed point maximizes the evidence of the data under this prior; it is the
    only root of its equation. With a sum-reduced loss, N is 1 in the formula.

    When it fails: δ falls as the parameters grow, so that long steps lead to longer ones. Bound them with
    `max_step_norm`, such as 1.
    """

    nat: Annotated[PositiveFloat, Unit("loss")] = Field(
        1.0, description="T, loss of one sample that corresponds to a factor e in likelihood; 1 for cross-entropy."
    )
    samples: PositiveInt | None = Field(
        None, description="N, number of samples in the likelihood; by default that of the GGN."
    )

    def damp(self, directions: Directions) -> Tensor:
        """Return the fixed point for each direction."""
        context = directions.context
        if context.parameter_norm == 0:
            raise ValueError(
                "the group's parameters are all zero, so that their prior is unknown. Put them into a group with other "
                "parameters, or use another damping."
            )
        evals = directions.evals.double()
        samples = 1 if directions.reduction == "sum" else self.samples or context.samples
        weight = samples * context.parameter_norm**2 / self.nat

        def excess(delta: float) -> tuple[float, float]:
            effective = (evals / (evals + delta)).masked_fill(evals == 0, 0.0)  # tiny ones may have underflowed
            return weight * delta - float(effective.sum()), weight + float(
                (effective / (evals + delta)).masked_fill(evals == 0, 0.0).sum()
            )

        return uniform_deltas(root_from_left(excess, 0.0), directions)
