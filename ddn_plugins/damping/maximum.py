"""The largest of several dampings, direction by direction."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from pydantic import Field

from ddn_core.api import AnyDamping, Damping
from ddn_plugins.damping._uniform import combined_uniform

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class Maximum(Damping, kind="maximum"):
    """δ_k = the largest of the dampings' δ_k.

    For example, a lower bound on an adaptive damping: `of = [{ kind = "levenberg-marquardt" }, { kind = "constant" }]`.

    When it fails: all of the dampings may vanish together, and the step becomes too long. Bound it with
    `max_step_norm`, such as 1.
    """

    of: list[AnyDamping] = Field(
        min_length=1,
        description="Dampings of which the largest is used.",
        examples=[[{"kind": "levenberg-marquardt"}, {"kind": "relative", "fraction": 1e-3}]],
    )

    def uniform(self, context: Context) -> float | None:
        """Return the largest damping if each is one number for all directions."""
        return combined_uniform(self.of, context, max)

    def damp(self, directions: Directions) -> Tensor:
        """Return the largest damping, direction by direction."""
        return reduce(lambda some, others: some.maximum(others), [damping(directions) for damping in self.of])
