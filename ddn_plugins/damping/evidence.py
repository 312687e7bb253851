"""The damping that explains the parameters best, after MacKay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from ddn_core.api import Damping, Unit
from ddn_plugins._flat import same_for_all
from ddn_plugins._newton import root_from_left

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions


class Evidence(Damping, kind="evidence"):
    """δ_k = δ with `δ = T γ_eff / (N ‖θ‖²)`, `γ_eff = Σ_k λ_k / (λ_k + δ)` the effective number of parameters.

    Source: MacKay 1992, "Bayesian interpolation".

    The loss is taken for a negative log-likelihood of N samples and the damping for the precision of a Gaussian
    prior on the group's parameters θ. The fixed point makes the evidence of the data under that prior largest. Its
    equation has one root. With a sum-reduced loss, N is 1 in the formula.
    """

    nat: Annotated[PositiveFloat, Unit("loss")] = Field(
        1.0, description="T, the loss of one sample that is a factor e in likelihood: 1 for cross-entropy."
    )
    samples: PositiveInt | None = Field(
        None, description="N, number of samples that the posterior is of; by default those of the GGN."
    )

    def damp(self, directions: Directions) -> Tensor:
        """Return the fixed point for each direction."""
        context = directions.context
        if context.parameter_norm == 0:
            raise ValueError(
                "the group's parameters are all zero, which says nothing of their prior: put them into a group with "
                "others, or damp them in another way"
            )
        evals = directions.evals.double()
        samples = 1 if directions.reduction == "sum" else self.samples or context.samples
        weight = samples * context.parameter_norm**2 / self.nat

        def excess(delta: float) -> tuple[float, float]:
            effective = evals / (evals + delta)
            return weight * delta - float(effective.sum()), weight + float((effective / (evals + delta)).sum())

        return same_for_all(root_from_left(excess, 0.0), directions)
