"""The input of an operation with a weight, and its features for the operation's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ddn_core.engine.factors.family import WeightFamily


@dataclass(frozen=True, eq=False)
class FactorInput:
    """The input of an operation for some samples, and its features.

    Attributes:
        family: Family of the operation.
        values: Input of the operation, `[B, *input]`.
        names: Roles of the parameters in the operation: `("weight", "bias")`, or one of them.
    """

    family: WeightFamily
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

    @property
    def feature_count(self) -> int:
        """Number of features of each group, without the feature of the bias; 0 without a weight."""
        return self.family.matrix_shape[2] if self.has_weight else 0

    def features(self, samples: slice = slice(None)) -> Tensor:
        """Return the features, `[B, g, L, f]`, without the feature of the bias; without a weight, f = 0."""
        chosen = self.values[samples]
        if self.has_weight:
            return self.family.features_of(chosen)
        return chosen.new_zeros(len(chosen), self.family.matrix_shape[0], 1, 0)

    def flat_features(self) -> Tensor:
        """Return the features of one group at one position, `[B, f]`."""
        if self.has_weight:
            return self.family.flat_features_of(self.values)
        return self.values.new_zeros(len(self.values), 0)

    def select(self, samples: Sequence[int]) -> FactorInput:
        """Return the input for some samples."""
        return replace(self, values=self.values[list(samples)])
