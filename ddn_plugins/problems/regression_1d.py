"""Regression of an oscillating curve."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from ddn_core.api import Problem, ProblemParts, Unit
from ddn_plugins._bounds import Width
from ddn_plugins.problems._curves import curve_parts

if TYPE_CHECKING:
    from torch import Tensor


class Regression1d(Problem, kind="regression-1d"):
    """Fit a sum of sines `y = Σ sin(2π f x)` on [-1, 1] with a small tanh network.

    First-order methods learn low frequencies before high ones (Rahaman et al. 2019, "On the spectral bias of
    neural networks"). With all samples in a batch and training in float64, the criterion `all` with the
    damping `levenberg-marquardt` brings the loss below 1e-10 in about a thousand steps.
    """

    frequencies: Annotated[list[PositiveFloat], Unit("1")] = Field(
        [2.0, 3.0], min_length=1, description="Frequencies f of the sines; a sine has 2 f periods on [-1, 1]."
    )
    samples: int = Field(256, ge=2, le=10**8, description="Number of equidistant training points.")
    hidden: list[Width] = Field([30, 30], description="Widths of the hidden layers.")
    batch_size: PositiveInt | None = Field(
        None, description="Number of samples in a training batch; all samples by default."
    )

    def load(self) -> ProblemParts:
        """Return network, loss and data."""
        return curve_parts(self._curve, self.samples, self.hidden, self.batch_size)

    def _curve(self, points: Tensor) -> Tensor:
        import torch

        waves = torch.stack([torch.sin(2 * pi * frequency * points) for frequency in self.frequencies])
        return waves.sum(0)
