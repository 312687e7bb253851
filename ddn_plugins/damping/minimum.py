"""The smallest of several dampings, direction by direction."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from pydantic import Field

from ddn_core.api import AnyDamping, Damping
from ddn_plugins.damping._uniform import combined_uniform

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class Minimum(Damping, kind="minimum"):
    """δ_k = the smallest of the dampings' δ_k.

    The result is +inf (do not move) only if all dampings are +inf.

    When it fails: one damping that vanishes is enough for a step that is too long. Bound it with `max_step_norm`, such
    as 1.
    """

    of: list[AnyDamping] = Field(
        min_length=1,
        description="Dampings of which the smallest is used.",
        examples=[[{"kind": "levenberg-marquardt"}, {"kind": "relative"}]],
    )

    def uniform(self, context: Context) -> float | None:
        """Return the smallest damping if each is one number for all directions."""
        return combined_uniform(self.of, context, min)

    def damp(self, directions: Directions) -> Tensor:
        """Return the smallest damping, direction by direction."""
        return reduce(lambda some, others: some.minimum(others), [damping(directions) for damping in self.of])
