"""One damping for all directions that adapts to the quality of the quadratic model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, PositiveFloat, PrivateAttr, model_validator

from ddn_core.api import Damping, Unit
from ddn_plugins._bounds import check_order
from ddn_plugins._flat import uniform_deltas
from ddn_plugins.damping._model_quality import model_quality

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions, Outcome


class LevenbergMarquardt(Damping, kind="levenberg-marquardt"):
    """δ_k = δ, which grows after a step that gained less than predicted, and shrinks after one that gained enough.

    Source: Martens 2010, "Deep learning via Hessian-free optimization", section 4.1, after Marquardt 1963.

    With ρ the ratio of the actual to the predicted decrease of the loss on the same batch, δ is multiplied by
    `increase` if ρ < `bad`, and by `decrease` if ρ > `good`. A ratio of NaN counts as bad: the loss has become NaN or
    infinite, or no decrease was predicted. A step whose change of the loss is below the rounding error of float32
    counts as good, so that δ decreases again. A step that moved nothing leaves δ as it is. With `on_increase = "damp"`
    in the optimizer's step rules, a step that raises the loss is undone and repeated with the larger δ.

    When it fails: ρ comes from the batch of the step and does not show how the step harms other samples, so with small
    batches δ falls towards zero. Bound the step with `max_step_norm`, such as 1, and raise `lowest`, such as 0.1;
    `on_increase = "damp"` helps, too.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"loss_after"})

    initial: Annotated[PositiveFloat, Unit("loss/param²")] = Field(1.0, description="Damping of the first step.")
    bad: Annotated[float, Unit("1")] = Field(0.25, ge=0, le=0.5, description="Ratio below which the damping grows.")
    good: Annotated[float, Unit("1")] = Field(0.75, ge=0.5, le=1, description="Ratio above which the damping shrinks.")
    increase: Annotated[float, Unit("1")] = Field(1.5, ge=1, description="Factor on the damping after a bad step.")
    decrease: Annotated[float, Unit("1")] = Field(
        2 / 3, gt=0, le=1, description="Factor on the damping after a good step."
    )
    lowest: Annotated[PositiveFloat, Unit("loss/param²")] = Field(
        1e-10, description="Smallest damping, also in the first step."
    )
    highest: Annotated[PositiveFloat, Unit("loss/param²")] = Field(
        1e10, description="Largest damping, also in the first step."
    )

    _delta: float = PrivateAttr()

    def model_post_init(self, context: object, /) -> None:
        """Start with the initial damping, clamped to the bounds."""
        self._delta = min(max(self.initial, self.lowest), self.highest)

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        return check_order(self, "lowest", "highest")

    def uniform(self, context: Context) -> float:
        """Return the current damping."""
        return self._delta

    def damp(self, directions: Directions) -> Tensor:
        """Return the current damping for each direction."""
        return uniform_deltas(self._delta, directions)

    def observe(self, outcome: Outcome) -> None:
        """Compare the decrease of the loss with the prediction."""
        quality = model_quality(outcome, self.bad, self.good)
        if quality == "good":
            self._delta = max(self._delta * self.decrease, self.lowest)
        if quality == "bad":
            self._delta = min(self._delta * self.increase, self.highest)
