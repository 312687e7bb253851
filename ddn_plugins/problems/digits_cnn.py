"""A small convolutional network on the digits."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from ddn_core.api import ProblemParts
from ddn_plugins._bounds import Width
from ddn_plugins.problems._digits import Digits
from ddn_plugins.problems._networks import convolutional


class DigitsCnn(Digits, kind="digits-cnn"):
    """Classify scikit-learn's digits (8 × 8 pixels, 10 classes) with two convolutions and a linear layer."""

    batch_size: PositiveInt = Field(32, description="Number of samples in a training batch.")
    channels: tuple[Width, Width] = Field((8, 16), description="Output channels of the two convolutions.")

    def load(self) -> ProblemParts:
        """Return network, loss and data."""
        model = convolutional(channels=1, widths=self.channels, size=8, classes=10)
        return self.classification(model, image_shape=(1, 8, 8))
