"""A fully connected network on the digits."""

from __future__ import annotations

from pydantic import Field

from ddn_core.api import ProblemParts
from ddn_plugins._bounds import Width
from ddn_plugins.problems._digits import Digits
from ddn_plugins.problems._networks import Activation, fully_connected


class DigitsMlp(Digits, kind="digits-mlp"):
    """Classify scikit-learn's digits (64 pixels, 10 classes) with a fully connected network."""

    hidden: list[Width] = Field([128, 64], description="Widths of the hidden layers.")
    activation: Activation = Field("relu", description="Activation after each hidden layer.")

    def load(self) -> ProblemParts:
        """Return network, loss and data."""
        return self.classification(fully_connected([64, *self.hidden, 10], self.activation), image_shape=(64,))
