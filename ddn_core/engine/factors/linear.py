"""Products with weight matrices: linear layers, matrix products, batched matrix products, and scales of channels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import linear

from ddn_core.engine.factors.family import WeightFamily, spread_numbers


@dataclass(frozen=True)
class LinearFamily(WeightFamily):
    """A product of the input's features with a weight matrix for each group, at every position.

    The input is `[b, g, *positions, f]`, and the output is `[b, g, *positions, o]`. If there is one group, both may
    lack the axis of groups. The positions may have any number of axes, also none.

    A linear layer has one group and the weight `[o, f]`. `x @ W` has the weight `[f, o]`, and is transposed. A batched
    matrix product has a group for each matrix, and the weight `[g, f, o]` or `[g, o, f]`. A scale of channels has a
    group with one output and one feature for each channel.

    Attributes:
        groups: Number of groups, g.
        outputs: Number of outputs of each group, o.
        features: Number of features of each group, f.
        weight_shape: Shape of the weight, whose entries are in the order `[g, o, f]`, or `[g, f, o]` if transposed.
        transposed: True if the features come before the outputs in the weight's axes.
    """

    groups: int
    outputs: int
    features: int
    weight_shape: tuple[int, ...]
    transposed: bool = False

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Shape `(g, o, f)`."""
        return self.groups, self.outputs, self.features

    def turned(self) -> LinearFamily:
        """Return the family for the transposed weight."""
        return LinearFamily(self.groups, self.outputs, self.features, self.weight_shape[::-1], not self.transposed)

    def root(self, backpropagated: Tensor) -> Tensor:
        """Return the root `[b, a, g, o, L]` of columns `[b, a, g, *positions, o]`, without the axis g if g = 1."""
        samples, columns = backpropagated.shape[:2]
        if backpropagated.dim() == 3:
            return backpropagated.reshape(samples, columns, self.groups, self.outputs, 1)
        return backpropagated.reshape(samples, columns, self.groups, -1, self.outputs).transpose(-1, -2)

    def features_of(self, values: Tensor) -> Tensor:
        """Return the input `[b, g, *positions, f]`, without the axis g if g = 1, as `[b, g, L, f]`."""
        return values.reshape(values.shape[0], self.groups, -1, self.features)

    def flat_features_of(self, values: Tensor) -> Tensor:
        """Return the input with one group and one position, `[b, f]`."""
        return values if values.dim() == 2 else values.reshape(len(values), self.features)

    def to_weights(self, matrices: Tensor) -> Tensor:
        """Return weight vectors `[K, *weight_shape]`."""
        ordered = matrices.transpose(-1, -2) if self.transposed else matrices
        return ordered.reshape(len(matrices), *self.weight_shape)

    def to_matrices(self, weights: Tensor) -> Tensor:
        """Return weight matrices `[K, g, o, f]`."""
        if self.transposed:
            return weights.reshape(len(weights), self.groups, self.features, self.outputs).transpose(-1, -2)
        return weights.reshape(len(weights), self.groups, self.outputs, self.features)

    def apply(self, values: Tensor, matrix: Tensor) -> Tensor:
        """Return the products with the weights, `[b, g, o, L]`."""
        if self.groups > 1:
            return super().apply(values, matrix)
        return (values.reshape(len(values), -1, self.features) @ matrix[0].T).transpose(1, 2)[:, None]

    def flat_response(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output of the operation with one weight vector, with one group and one position, `[b, o]`."""
        matrix = weight if weight.dim() == 2 else weight.reshape(self.weight_shape[-2:])
        return linear(self.flat_features_of(values), matrix.T if self.transposed else matrix, bias)

    def summed_products(self, root: Tensor, values: Tensor) -> Tensor:
        """Return `Σ_b S[o, b] A[b, f]` as one weight vector, `[*weight_shape]`, for one group and one position."""
        features = self.flat_features_of(values)
        product = (root @ features).T if self.transposed else root @ features
        return product if len(self.weight_shape) == 2 else product.reshape(self.weight_shape)

    def probe(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return a probe and its response."""
        if self.groups > 1:
            return super().probe(values)
        probe = spread_numbers(self.features, values)
        return probe[None], (values @ probe).reshape(len(values), 1, -1)
