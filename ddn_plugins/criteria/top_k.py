"""Keep the k directions of largest curvature."""

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

    `k = "outputs"` stands for the number of outputs of the model, such as classes: as many eigenvalues stand out
    early in training.
    """

    k: PositiveInt | Literal["outputs"] = Field(10, description="Number of directions, or `outputs`.")

    def leading_directions(self, context: Context) -> int:
        """Return k: nothing else is looked at."""
        return context.outputs if self.k == "outputs" else self.k

    def select(self, directions: Directions) -> range:
        """Return the last k indices: eigenvalues are ascending."""
        return range(max(0, len(directions) - self.leading_directions(directions.context)), len(directions))
