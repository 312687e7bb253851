"""The smallest of several dampings, direction by direction."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from pydantic import Field

from ddn_core.api import AnyDamping, Damping
from ddn_plugins.damping._uniform import combined

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Directions


class Minimum(Damping, kind="minimum"):
    """δ_k = the smallest of the dampings' δ_k.

    A direction is left alone (δ = +inf) only if all of the dampings leave it alone.
    """

    of: list[AnyDamping] = Field(
        min_length=1,
        description="Dampings to take the smallest of.",
        examples=[[{"kind": "levenberg-marquardt"}, {"kind": "relative"}]],
    )

    def uniform(self, context: Context) -> float | None:
        """Return the smallest, if each damping is one number."""
        return combined(self.of, context, min)

    def damp(self, directions: Directions) -> Tensor:
        """Return the smallest, direction by direction."""
        return reduce(lambda some, others: some.minimum(others), [damping(directions) for damping in self.of])
