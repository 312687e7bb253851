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

    Both dampings observe every step, also those that the other one damped; an adaptive damping should therefore have
    bounds. Nest `switch` for more than two dampings.

    When it fails: where one of the two dampings fails, from its first step on. Bound the step with `max_step_norm`,
    such as 1, and give an adaptive damping a bound, such as `lowest`.
    """

    before: AnyDamping = Field(description="Damping of the first steps.")
    after: AnyDamping = Field(description="Damping of the later steps.", examples=[{"kind": "levenberg-marquardt"}])
    at: PositiveInt = Field(description="Number of steps with the damping `before`.", examples=[100])

    def uniform(self, context: Context) -> float | None:
        """Return the damping of the current step if it is one number for all directions."""
        return self._current(context).uniform(context)

    def damp(self, directions: Directions) -> Tensor:
        """Return the damping of the current step."""
        return self._current(directions.context)(directions)

    def _current(self, context: Context) -> Damping:
        return self.before if context.step < self.at else self.after
