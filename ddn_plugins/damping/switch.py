"""One damping before a step, another from then on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from ddn_core.api import AnyDamping, Damping

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class Switch(Damping, kind="switch"):
    """δ_k = δ_k of `before` for the first `at` steps, then δ_k of `after`.

    Both observe every step, also those that the other damped: one that adapts should have bounds. Nest it for more than
    two.
    """

    before: AnyDamping = Field(description="Damping of the first steps.")
    after: AnyDamping = Field(description="Damping of those that follow.", examples=[{"kind": "levenberg-marquardt"}])
    at: PositiveInt = Field(description="Number of steps that `before` damps.", examples=[100])

    def uniform(self, context: Context) -> float | None:
        """Return the damping of the step, if it is one number."""
        return self._now(context).uniform(context)

    def damp(self, directions: Directions) -> Tensor:
        """Return the damping of the step."""
        return self._now(directions.context)(directions)

    def _now(self, context: Context) -> Damping:
        return self.before if context.step < self.at else self.after
