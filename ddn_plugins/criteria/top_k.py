"""Keep the k directions with the largest curvature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from ddn_core.api import Criterion

if TYPE_CHECKING:
    from ddn_core.api import Context, Directions


class TopK(Criterion, kind="top-k"):
    """Keep the k directions with the largest eigenvalues, or all if there are fewer.

    Source: Dangel, Tatzel, Hennig 2022, "ViViT"; Gur-Ari, Roberts, Dyer 2018, "Gradient descent happens in a tiny
    subspace", for k = outputs.

    `k = "outputs"` stands for the number of outputs of the model, such as classes: early in training about as many
    eigenvalues are far above the others.
    """

    k: PositiveInt | Literal["outputs"] = Field(10, description="Number of directions to keep, or `outputs`.")

    def leading_directions(self, context: Context) -> int:
        """Return k."""
        return context.outputs if self.k == "outputs" else self.k

    def select(self, directions: Directions) -> range:
        """Return the last k indices, since eigenvalues are ascending."""
        return range(max(0, len(directions) - self.leading_directions(directions.context)), len(directions))
