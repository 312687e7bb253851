"""The least damping for which the step stays within a radius."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, PositiveFloat, PrivateAttr, model_validator

from ddn_core.api import Damping, Unit
from ddn_plugins._bounds import in_order
from ddn_plugins._flat import same_for_all, still_where_flat
from ddn_plugins._newton import derivatives, reciprocal_norm, root_from_left
from ddn_plugins.damping._verdict import verdict

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Directions, Outcome


class TrustRegion(Damping, kind="trust-region"):
    """δ_k = the least δ ≥ 0 for which the step has norm at most Δ: `Σ_k γ̄_k² / (λ̄_k + δ)² ≤ Δ²`.

    Source: Moré and Sorensen 1983, "Computing a trust region step"; Nocedal and Wright 2006, "Numerical optimization",
    algorithm 4.1.

    The step minimises the quadratic model within a ball. Where the undamped step is inside, δ is zero. Δ is divided by
    four after a step that gained less than a quarter of what was predicted, and doubled after one that reached the
    boundary and gained more than three quarters, or too little to be seen in a float32 loss. The radius is that of the
    step before `lr`, so leave `lr` at 1.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"loss_after"})

    radius: Annotated[PositiveFloat, Unit("param")] = Field(1.0, description="Δ of the first step.")
    largest: Annotated[PositiveFloat, Unit("param")] = Field(100.0, description="Largest Δ.")
    smallest: Annotated[PositiveFloat, Unit("param")] = Field(1e-8, description="Smallest Δ.")
    bad: Annotated[float, Unit("1")] = Field(0.25, ge=0, le=0.5, description="Ratio below which Δ shrinks.")
    good: Annotated[float, Unit("1")] = Field(0.75, ge=0.5, le=1, description="Ratio above which Δ may grow.")
    shrink: Annotated[float, Unit("1")] = Field(0.25, gt=0, le=1, description="Factor on Δ after a bad step.")
    grow: Annotated[float, Unit("1")] = Field(2.0, ge=1, description="Factor on Δ after a good step to the boundary.")

    _radius: float = PrivateAttr()

    def model_post_init(self, context: object, /) -> None:
        """Begin with the first radius, within the bounds."""
        self._radius = min(max(self.radius, self.smallest), self.largest)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        return in_order(self, "smallest", "largest")

    def damp(self, directions: Directions) -> Tensor:
        """Return the root of `1 / ‖s(δ)‖ = 1 / Δ` for each direction, or zero."""
        gammas, lambdas = derivatives(directions)
        start = max(0.0, float((gammas / self._radius - lambdas).max()))  # a single direction needs as much

        def excess(delta: float) -> tuple[float, float]:
            value, derivative = reciprocal_norm(gammas, lambdas, delta)
            return value - 1 / self._radius, derivative

        delta = root_from_left(excess, start) if bool(gammas.any()) else 0.0
        return still_where_flat(same_for_all(delta, directions), directions)

    def observe(self, outcome: Outcome) -> None:
        """Shrink the region where the model predicts badly, grow it where it held the step back."""
        found = verdict(outcome, self.bad, self.good)
        if found == "good" and outcome.step_norm >= 0.99 * self._radius:
            self._radius = min(self.grow * self._radius, self.largest)
        if found == "bad":
            self._radius = max(self._radius * self.shrink, self.smallest)
