"""The curve-fitting example of `torch-levenberg-marquardt`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from ddn_core.api import Problem, ProblemParts
from ddn_plugins._bounds import Width
from ddn_plugins.problems._curves import curve_parts

if TYPE_CHECKING:
    from torch import Tensor


class Sinc(Problem, kind="sinc"):
    """Fit `y = sinc(10 x) = sin(10π x) / (10π x)` on [-1, 1] with a tanh network of one hidden layer.

    The curve, the network and the batches are those of the curve-fitting example of `torch-levenberg-marquardt` 1.2.3.
    """

    samples: int = Field(20_000, ge=2, le=10**8, description="Number of equidistant training points.")
    hidden: list[Width] = Field([20], description="Widths of the hidden layers.")
    batch_size: PositiveInt = Field(1000, description="Number of samples in a training batch.")

    def load(self) -> ProblemParts:
        """Return network, loss and data."""
        return curve_parts(_curve, self.samples, self.hidden, self.batch_size)


def _curve(points: Tensor) -> Tensor:
    import torch

    return torch.sinc(10 * points)
