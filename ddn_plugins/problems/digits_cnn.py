"""A small convolutional network on the digits."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from ddn_core.api import ProblemParts
from ddn_plugins.problems._digits import Digits


class DigitsCnn(Digits, kind="digits-cnn"):
    """Classify scikit-learn's digits (8 × 8 pixels, 10 classes) with two convolutions and a linear layer."""

    batch_size: PositiveInt = Field(32, description="Number of samples in a training batch.")
    channels: tuple[PositiveInt, PositiveInt] = Field((8, 16), description="Output channels of the two convolutions.")

    def load(self) -> ProblemParts:
        """Return network, loss and data."""
        from torch.nn import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential

        first, second = self.channels
        model = Sequential(
            Conv2d(1, first, kernel_size=3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Conv2d(first, second, kernel_size=3, padding=1),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Linear(4 * second, 10),
        )
        return self.parts(model, image_shape=(1, 8, 8))
