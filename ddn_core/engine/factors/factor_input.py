"""The input of an operation with a weight, and its features for the operation's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from ddn_core.engine.factors.family import WeightFamily
from ddn_core.errors import CurvatureError


@dataclass(frozen=True, eq=False)
class FactorInput:
    """The input of an operation for some samples, and its features.

    Attributes:
        family: Family of the operation.
        kept: Input of the operation, `[B, *input]`; no copy, so it may be a tensor of the user.
        names: Roles of the parameters in the operation: `("weight", "bias")`, or one of them.
    """

    family: WeightFamily
    kept: Tensor
    names: tuple[str, ...]
    _version: int = field(init=False)

    def __post_init__(self) -> None:
        """Record how often the input was changed in place until now."""
        object.__setattr__(self, "_version", _version_of(self.kept))

    @property
    def values(self) -> Tensor:
        """Input of the operation, `[B, *input]`.

        Raises:
            CurvatureError: The input was changed in place after the backward pass.
        """
        if _version_of(self.kept) != self._version:
            raise CurvatureError(
                f"the input of an operation with a {' and a '.join(self.names)}, a tensor of shape "
                f"{list(self.kept.shape)}, was changed in place after the backward pass. The curvature would be that "
                "of other data. Change it before the forward pass or after the step. If a loader overwrites its "
                "batches, copy them: `X = X.clone()`."
            )
        return self.kept

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
        return replace(self, kept=self.values[list(samples)])


def _version_of(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place, as autograd counts; its views have the same number."""
    return 0 if tensor.is_inference() else tensor._version
