"""A fully connected network on the digits."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, PositiveInt

from ddn_core.api import ProblemParts
from ddn_plugins.problems._digits import Digits


class DigitsMlp(Digits, kind="digits-mlp"):
    """Classify scikit-learn's digits (64 pixels, 10 classes) with a fully connected network."""

    hidden: list[PositiveInt] = Field([128, 64], description="Widths of the hidden layers.")
    activation: Literal["relu", "sigmoid", "tanh"] = Field("relu", description="Activation after each hidden layer.")

    def load(self) -> ProblemParts:
        """Return network, loss and data."""
        from torch.nn import Linear, Module, ReLU, Sequential, Sigmoid, Tanh

        activation: type[Module] = {"relu": ReLU, "sigmoid": Sigmoid, "tanh": Tanh}[self.activation]
        layers: list[Module] = []
        for inputs, outputs in pairwise([64, *self.hidden]):
            layers += [Linear(inputs, outputs), activation()]
        return self.parts(Sequential(*layers, Linear([64, *self.hidden][-1], 10)), image_shape=(64,))
