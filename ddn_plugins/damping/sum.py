"""The sum of several dampings, direction by direction."""

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING

from pydantic import Field

from ddn_core.api import AnyDamping, Damping
from ddn_plugins.damping._uniform import combined_uniform

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class Sum(Damping, kind="sum"):
    """δ_k = the sum of the dampings' δ_k.

    This combines dampings that have independent reasons, such as noise and model error.

    When it fails: all of the dampings may be small together, and the step becomes too long. Bound it with
    `max_step_norm`, such as 1, or add a larger `constant`, such as 0.3.
    """

    of: list[AnyDamping] = Field(
        min_length=1,
        description="Dampings to add up.",
        examples=[[{"kind": "constant", "value": 1e-2}, {"kind": "gradient-noise"}]],
    )

    def uniform(self, context: Context) -> float | None:
        """Return the sum if each damping is one number for all directions."""
        return combined_uniform(self.of, context, math.fsum)

    def damp(self, directions: Directions) -> Tensor:
        """Return the sum, direction by direction."""
        return reduce(lambda some, others: some + others, [damping(directions) for damping in self.of])
