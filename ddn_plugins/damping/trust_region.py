"""The smallest damping for which the step stays within a radius."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, PositiveFloat, PrivateAttr, model_validator

from ddn_core.api import Damping, Unit
from ddn_plugins._bounds import check_order
from ddn_plugins._flat import freeze_flat_directions, uniform_deltas
from ddn_plugins._newton import gradients_and_curvatures, reciprocal_norm, root_from_left
from ddn_plugins.damping._model_quality import model_quality

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions, Outcome


class TrustRegion(Damping, kind="trust-region"):
    """δ_k = the smallest δ ≥ 0 for which the step has norm at most Δ: `Σ_k γ̄_k² / (λ̄_k + δ)² ≤ Δ²`.

    Source: Moré and Sorensen 1983, "Computing a trust region step"; Nocedal and Wright 2006, "Numerical optimization",
    algorithm 4.1.

    The step minimizes the quadratic model within a ball of radius Δ. If the undamped step is inside, δ is zero. With ρ
    the ratio of the actual to the predicted decrease of the loss on the same batch, Δ is multiplied by `shrink` if
    ρ < `bad`, and by `grow` if ρ > `good` and the step reached the boundary. A change of the loss below the rounding
    error of float32 counts as ρ > `good`. Δ bounds the step before it is multiplied by `lr`, so leave `lr` at 1.

    When it fails: ρ comes from the batch of the step and does not show how the step harms other samples, so with small
    batches Δ grows, and the loss is noisy. Lower `radius` and `largest`, such as to 0.3.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"loss_after"})

    radius: Annotated[PositiveFloat, Unit("param")] = Field(1.0, description="Δ in the first step.")
    largest: Annotated[PositiveFloat, Unit("param")] = Field(100.0, description="Largest Δ.")
    smallest: Annotated[PositiveFloat, Unit("param")] = Field(1e-8, description="Smallest Δ.")
    bad: Annotated[float, Unit("1")] = Field(0.25, ge=0, le=0.5, description="Ratio below which Δ shrinks.")
    good: Annotated[float, Unit("1")] = Field(0.75, ge=0.5, le=1, description="Ratio above which Δ may grow.")
    shrink: Annotated[float, Unit("1")] = Field(0.25, gt=0, le=1, description="Factor on Δ after a bad step.")
    grow: Annotated[float, Unit("1")] = Field(2.0, ge=1, description="Factor on Δ after a good step to the boundary.")

    _radius: float = PrivateAttr()

    def model_post_init(self, context: object, /) -> None:
        """Start with the first radius, clamped to the bounds."""
        self._radius = min(max(self.radius, self.smallest), self.largest)

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        return check_order(self, "smallest", "largest")

    def damp(self, directions: Directions) -> Tensor:
        """Return the root of `1 / ‖s(δ)‖ = 1 / Δ` for each direction, or zero."""
        deltas = uniform_deltas(self._smallest_delta(directions), directions)
        return freeze_flat_directions(deltas, directions)

    def _smallest_delta(self, directions: Directions) -> float:
        gammas, lambdas = gradients_and_curvatures(directions)
        undamped = (gammas / lambdas).masked_fill(gammas == 0, 0.0)  # also where λ̄ = 0
        if float(undamped.norm()) <= self._radius:
            return 0.0

        def excess(delta: float) -> tuple[float, float]:
            value, derivative = reciprocal_norm(gammas, lambdas, delta)
            return value - 1 / self._radius, derivative

        start = max(0.0, float((gammas / self._radius - lambdas).max()))  # at or below the root
        return root_from_left(excess, start)

    def observe(self, outcome: Outcome) -> None:
        """Shrink the region if the model predicts badly; grow it if it predicts well and the region limits the step."""
        quality = model_quality(outcome, self.bad, self.good)
        if quality == "good" and outcome.step_norm >= 0.99 * self._radius:
            self._radius = min(self.grow * self._radius, self.largest)
        if quality == "bad":
            self._radius = max(self._radius * self.shrink, self.smallest)
