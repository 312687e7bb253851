"""One damping that follows how well the quadratic model predicts the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, PositiveFloat, PrivateAttr, model_validator

from ddn_core.api import Damping, Unit
from ddn_plugins._bounds import in_order
from ddn_plugins._flat import same_for_all
from ddn_plugins.damping._verdict import verdict

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions, Outcome


class LevenbergMarquardt(Damping, kind="levenberg-marquardt"):
    """δ_k = δ, which grows after a step that gained less than predicted, and shrinks after one that gained enough.

    Source: Martens 2010, "Deep learning via Hessian-free optimization", section 4.1, after Marquardt 1963.

    With ρ the ratio of the actual to the predicted decrease of the loss on the same batch, δ is multiplied by
    `increase` where ρ < `bad`, and by `decrease` where ρ > `good`. A ratio that is no number counts as bad: the loss
    has become NaN or infinite, or no decrease was predicted. Steps that are too short to be seen in a float32 loss
    count as good, so that δ comes down again. Where nothing was moved, nothing is learned. With `on_increase = "damp"`
    in the optimizer's step rules a step that raises the loss is taken back and tried with the larger δ.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"loss_after"})

    initial: Annotated[PositiveFloat, Unit("loss/param²")] = Field(1.0, description="Damping of the first step.")
    bad: Annotated[float, Unit("1")] = Field(0.25, ge=0, le=0.5, description="Ratio below which the damping grows.")
    good: Annotated[float, Unit("1")] = Field(0.75, ge=0.5, le=1, description="Ratio above which the damping shrinks.")
    increase: Annotated[float, Unit("1")] = Field(1.5, ge=1, description="Factor on the damping after a bad step.")
    decrease: Annotated[float, Unit("1")] = Field(2 / 3, gt=0, le=1, description="Factor on it after a good step.")
    lowest: Annotated[PositiveFloat, Unit("loss/param²")] = Field(
        1e-10, description="Least damping, of the first step too."
    )
    highest: Annotated[PositiveFloat, Unit("loss/param²")] = Field(1e10, description="Largest damping.")

    _delta: float = PrivateAttr()

    def model_post_init(self, context: object, /) -> None:
        """Begin with the initial damping, within the bounds."""
        self._delta = min(max(self.initial, self.lowest), self.highest)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        return in_order(self, "lowest", "highest")

    def uniform(self, context: Context) -> float:
        """Return the present damping."""
        return self._delta

    def damp(self, directions: Directions) -> Tensor:
        """Return the present damping for each direction."""
        return same_for_all(self._delta, directions)

    def observe(self, outcome: Outcome) -> None:
        """Compare the decrease of the loss with the prediction."""
        found = verdict(outcome, self.bad, self.good)
        if found == "good":
            self._delta = max(self._delta * self.decrease, self.lowest)
        if found == "bad":
            self._delta = min(self._delta * self.increase, self.highest)
