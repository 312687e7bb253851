"""The input of a layer, and its features for the layer's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn import Module

from ddn_core.engine.factors.family import LayerFamily


@dataclass(frozen=True, eq=False)
class LayerInput:
    """The input of a layer for some samples, and its features.

    Attributes:
        layer: Layer.
        family: Family of the layer.
        values: Input of the layer, `[B, *input]`.
        names: Names of the parameters: `("weight", "bias")`, or one of them.
    """

    layer: Module
    family: LayerFamily
    values: Tensor
    names: tuple[str, ...]

    @property
    def has_weight(self) -> bool:
        """True if the weight is among the parameters."""
        return "weight" in self.names

    @property
    def has_bias(self) -> bool:
        """True if the bias is among the parameters."""
        return "bias" in self.names

    def features(self, samples: slice = slice(None)) -> Tensor:
        """Return the features, `[B, g, L, f]`, without the feature of the bias; without a weight, f = 0."""
        chosen = self.values[samples]
        if self.has_weight:
            return self.family.features(self.layer, chosen)
        return chosen.new_zeros(len(chosen), self.family.groups(self.layer), 1, 0)

    def select(self, samples: Sequence[int]) -> LayerInput:
        """Return the input for some samples."""
        return replace(self, values=self.values[list(samples)])


def feature_count(layer_input: LayerInput, outputs: int) -> int:
    """Return the number of features of each group, without the feature of the bias.

    Args:
        layer_input: Input of the layer.
        outputs: Number of outputs of the layer, in all groups together.
    """
    weight: Any = layer_input.layer.weight
    return weight.numel() // outputs if layer_input.has_weight else 0
