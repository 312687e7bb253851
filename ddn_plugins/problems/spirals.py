"""Classification of points on two interleaved spirals."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ddn_core.api import Problem, ProblemParts, Unit
from ddn_plugins._bounds import Width
from ddn_plugins.problems._batches import split, test_batches, training_batches
from ddn_plugins.problems._metrics import accuracy
from ddn_plugins.problems._networks import fully_connected

if TYPE_CHECKING:
    from torch import Tensor


class Spirals(Problem, kind="spirals"):
    """Classify points on two interleaved spirals in the plane with a tanh network, after Lang and Witbrock 1988.

    The spirals wind around the origin out to a radius of 1; one is half a turn ahead of the other. The points are drawn
    evenly along them.
    """

    turns: Annotated[PositiveFloat, Unit("1")] = Field(1.5, description="Number of turns of each spiral.")
    noise: Annotated[NonNegativeFloat, Unit("1")] = Field(
        0.02, description="Standard deviation of the noise on both coordinates."
    )
    samples: int = Field(
        1000, ge=2, le=10**8, description="Number of points on both spirals together, including the test points."
    )
    hidden: list[Width] = Field([32, 32], description="Widths of the hidden layers.")
    batch_size: PositiveInt = Field(100, description="Number of samples in a training batch.")
    test_fraction: Annotated[float, Unit("1")] = Field(
        0.2, gt=0, lt=1, description="Fraction of the samples used for the test."
    )

    def load(self) -> ProblemParts:
        """Return network, loss and data."""
        from torch.nn import CrossEntropyLoss

        model = fully_connected([2, *self.hidden, 2], "tanh")
        train, test = split(self._points(), self.test_fraction)
        return ProblemParts(
            model=model,
            loss_function=CrossEntropyLoss(),
            train_batches=training_batches(train, self.batch_size),
            test_batches=test_batches(test),
            metrics={"accuracy": accuracy},
        )

    def _points(self) -> tuple[Tensor, Tensor]:
        """Return points, `[N, 2]`, and the number of the spiral that each is on, `[N]`."""
        import torch

        spirals = torch.arange(self.samples) % 2
        radii = (
            0.01 + 0.99 * torch.rand(self.samples)
        ).sqrt()  # from 0.1 to 1; closer to the origin, the spirals overlap
        angles = 2 * pi * self.turns * radii + pi * spirals
        points = radii[:, None] * torch.stack([angles.cos(), angles.sin()], 1)
        return points + self.noise * torch.randn(self.samples, 2), spirals
