"""The largest of several dampings, direction by direction."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from pydantic import Field

from ddn_core.api import AnyDamping, Damping
from ddn_plugins.damping._uniform import combined

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class Maximum(Damping, kind="maximum"):
    """δ_k = the largest of the dampings' δ_k.

    A floor under an adaptive damping, say: `of = [{ kind = "levenberg-marquardt" }, { kind = "relative" }]`.
    """

    of: list[AnyDamping] = Field(
        min_length=1,
        description="Dampings to take the largest of.",
        examples=[[{"kind": "levenberg-marquardt"}, {"kind": "relative", "fraction": 1e-3}]],
    )

    def uniform(self, context: Context) -> float | None:
        """Return the largest, if each damping is one number."""
        return combined(self.of, context, max)

    def damp(self, directions: Directions) -> Tensor:
        """Return the largest, direction by direction."""
        return reduce(lambda some, others: some.maximum(others), [damping(directions) for damping in self.of])
