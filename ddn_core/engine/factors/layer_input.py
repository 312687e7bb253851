"""The input of a layer, and what the layer's parameters see of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn import Module

from ddn_core.engine.factors.family import LayerFamily


@dataclass(frozen=True, eq=False)
class LayerInput:
    """The input of a layer for some samples, and what the layer's parameters see of it.

    Attributes:
        layer: Layer.
        family: What is known of its kind.
        values: Its input, `[B, *input]`.
        names: `("weight", "bias")`, or one of them.
    """

    layer: Module
    family: LayerFamily
    values: Tensor
    names: tuple[str, ...]

    @property
    def has_weight(self) -> bool:
        """Whether the weight is among the parameters."""
        return "weight" in self.names

    @property
    def has_bias(self) -> bool:
        """Whether the bias is among the parameters."""
        return "bias" in self.names

    def features(self, samples: slice = slice(None)) -> Tensor:
        """Return the features, `[B, g, L, f]`, without the one of the bias; f = 0 without a weight."""
        chosen = self.values[samples]
        if self.has_weight:
            return self.family.features(self.layer, chosen)
        return chosen.new_zeros(len(chosen), self.family.groups(self.layer), 1, 0)

    def select(self, samples: Sequence[int]) -> LayerInput:
        """Return the input for some samples."""
        return replace(self, values=self.values[list(samples)])


def feature_count(layer_input: LayerInput, outputs: int) -> int:
    """Return the number of features of a group, without the one of the bias, for the number of outputs of a layer."""
    weight: Any = layer_input.layer.weight
    return weight.numel() // outputs if layer_input.has_weight else 0
