"""Columns as a product of what is backpropagated to a layer and of its input: the form of every layer with a weight.

With the root `S[n, a, g, o, l]` at the output of a layer and the features `A[n, g, f, l]` of its input (g runs over
the groups of a convolution, o over the outputs and f over the features of a group, l over the L positions that the
layer is applied at), column `(n, a)` is

    V[n, a][g, o, f] = Σ_l S[n, a, g, o, l] A[n, g, f, l].

A linear layer has f = in and L = 1, or a sequence axis; a convolution has the unfolded input, f = in · kernel; batch
normalization has a group for each channel with o = f = 1; an embedding has one-hot features. A feature that is 1
everywhere stands for the bias. There are three ways to the inner products, of which the cheapest is taken:

| contraction | products | operations |
| --- | --- | --- |
| outer, for L = 1 | `(S Sᵀ) ∘ (A Aᵀ)` | R² o / 2 + B² f / 2 |
| pairs | the same over pairs of positions, summed | L² times as many |
| formed | V for a slice of outputs at a time, `V Vᵀ` | R o f L + R² o f / 2 |

The first is that of ViViT (Dangel et al. 2022, section 3); the last is counted for each group and summed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import pad

from ddn_core.engine.factors.columns import Columns, Parts, add_upper_products, row_blocks
from ddn_core.engine.factors.family import LayerFamily
from ddn_core.engine.factors.layout import LayerLayout

Contraction = Literal["outer", "pairs", "formed"]

SLICE_ELEMENTS = 2**21
"""Number of elements up to which columns are formed at a time: some MB, which a cache holds."""


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

    def features(self, samples: slice = slice(None)) -> Tensor:
        """Return the features, `[B, g, f, L]`; the last one is 1 if there is a bias."""
        chosen = self.values[samples]
        if "weight" not in self.names:
            return chosen.new_ones(1).expand(len(chosen), self.family.groups(self.layer), 1, 1)
        features = self.family.features(self.layer, chosen)
        return pad(features, (0, 0, 0, 1), value=1.0) if "bias" in self.names else features

    def response(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Return what the layer makes of its input with one output for each group, `[B, g, L]`.

        Args:
            vectors: Weight `[g, f]` and bias `[g]`, as far as these parameters are there.
        """
        if "weight" not in vectors:
            return vectors["bias"].expand(len(self.values), -1)[..., None]
        response = self.family.response(self.layer, self.values, vectors["weight"])
        return response + vectors["bias"][:, None] if "bias" in vectors else response

    def select(self, samples: Sequence[int]) -> LayerInput:
        """Return the input for some samples."""
        return replace(self, values=self.values[list(samples)])


def form(root: Tensor, features: Tensor) -> Tensor:
    """Return `Σ_l S[n, a, g, o, l] A[n, g, f, l]`, `[B, A, g, o, f]`."""
    samples, per_sample, groups, outputs, positions = root.shape
    stacked = root.transpose(1, 2).reshape(samples, groups, per_sample * outputs, positions)
    columns = stacked @ features.transpose(-1, -2)
    return columns.reshape(samples, groups, per_sample, outputs, -1).transpose(1, 2)


def cheapest_contraction(
    samples: int, per_sample: int, groups: int, outputs: int, features: int, positions: int
) -> tuple[Contraction, float]:
    """Return the contraction that takes the fewest operations for a Gram matrix, and their number.

    Multiplications and additions count as one. An elementwise operation on a block counts as eight: it is bound by
    memory, not by arithmetic.
    """
    columns = samples * per_sample
    pairs = 0.5 * groups * positions**2 * (columns**2 * (outputs + 8) + samples**2 * features)
    formed = groups * outputs * features * (columns * positions + 0.5 * columns**2)
    if formed <= pairs:
        return "formed", formed
    return ("outer" if positions == 1 else "pairs"), pairs


class ProductColumns(Columns):
    """Columns that are held as backpropagated root and layer input."""

    def __init__(
        self, root: Tensor, layer_input: LayerInput, features: int, slice_elements: int = SLICE_ELEMENTS
    ) -> None:
        """Keep both; nothing is computed.

        Args:
            root: What is backpropagated to the layer output, `[B, A, g, o, L]`.
            layer_input: Input of the layer for the same samples.
            features: Number of features of a group, with the one of the bias.
            slice_elements: Number of elements up to which columns are formed at a time.
        """
        self._root = root
        self._slice_elements = slice_elements
        self._input = layer_input
        self.samples, self.per_sample, self._groups, self._outputs, self._positions = root.shape
        self._features = features
        self.size = self._groups * self._outputs * features
        self.layout = LayerLayout(layer_input.layer, layer_input.family, layer_input.names, self._outputs)

    @property
    def contraction(self) -> Contraction:
        """The way to the Gram matrix."""
        return cheapest_contraction(
            self.samples, self.per_sample, self._groups, self._outputs, self._features, self._positions
        )[0]

    def accumulate(self, gram: Tensor, vector: Parts | None, products: Tensor | None) -> None:
        """Add the upper blocks of the Gram matrix, and the products with a vector."""
        if self.contraction == "formed":
            for outputs, columns in self._slices():
                add_upper_products(gram, columns, self.samples, self.per_sample)
                if vector is not None and products is not None:
                    products.addmv_(columns, self._slice_of(vector, outputs)[0])
            return
        features = self._input.features()
        for samples, rows in row_blocks(self.samples, self.per_sample):
            rest = slice(samples.start, None)
            _add_pairs(
                gram[rows, rows.start :], self._root[samples], features[samples], self._root[rest], features[rest]
            )
        if vector is not None and products is not None:
            products += self.project(vector)[:, 0]

    def inner(self, other: Columns) -> Tensor:
        """Return the inner products, `[count, other.count]`."""
        if not isinstance(other, ProductColumns):
            return other.inner(self).T
        result = self._root.new_zeros(self.count, other.count)
        features, others = self._input.features(), other._input.features()
        if self.contraction != "formed":
            for samples, rows in row_blocks(self.samples, self.per_sample):
                _add_pairs(result[rows], self._root[samples], features[samples], other._root, others)
            return result
        for outputs, columns in self._slices():
            theirs = form(other._root[:, :, :, outputs], others)
            result.addmm_(columns, theirs.reshape(other.count, -1).T)
        return result

    def combine(self, weights: Tensor) -> Parts:
        """Return linear combinations of the columns."""
        count, names = weights.shape[1], self._input.names
        if self._positions > 1 and count > self.per_sample:
            parts = [
                (weights.T @ columns).reshape(count, self._groups, -1, self._features) for _, columns in self._slices()
            ]
            return self.layout.split(torch.cat(parts, dim=2).reshape(count, -1))
        stacked = weights.reshape(self.samples, self.per_sample, count).transpose(1, 2)  # [B, K, A]
        root = self._root.reshape(self.samples, self.per_sample, -1)
        roots = (stacked @ root).reshape(self.samples, count, *self._root.shape[2:])
        found = {"bias": roots.sum((0, -1)).reshape(count, -1)}
        if "weight" in names:
            features = self._input.family.features(self._input.layer, self._input.values)
            products = torch.einsum("nkgol,ngfl->kgof", roots, features)
            found["weight"] = self._input.family.weight(self._input.layer, products)
        return tuple(found[name] for name in names)

    def project(self, vectors: Parts) -> Tensor:
        """Return the inner products with vectors, `[count, K]`."""
        given = dict(zip(self._input.names, vectors, strict=True))
        count = len(vectors[0])
        if self._positions > 1 and count > self.per_sample:
            result = self._root.new_zeros(self.count, count)
            for outputs, columns in self._slices():
                result.addmm_(columns, self._slice_of(vectors, outputs).T)
            return result
        responses = self._root.new_zeros(())
        if "weight" in given:
            weights = self._input.family.products(self._input.layer, given["weight"])
            features = self._input.family.features(self._input.layer, self._input.values)
            responses = torch.einsum("kgof,ngfl->ngolk", weights, features)
        if "bias" in given:
            biases = given["bias"].reshape(count, 1, self._groups, self._outputs, 1)
            responses = responses + biases.permute(1, 2, 3, 4, 0)
        responses = responses.expand(self.samples, self._groups, self._outputs, self._positions, count)
        root = self._root.reshape(self.samples, self.per_sample, -1)
        return (root @ responses.reshape(self.samples, -1, count)).reshape(-1, count)

    def formed(self) -> Tensor:
        """Return the columns, `[count, size]`."""
        return form(self._root, self._input.features()).reshape(self.count, -1)

    def select(self, samples: Sequence[int]) -> ProductColumns:
        """Return the columns of some samples."""
        chosen = self._input.select(samples)
        return ProductColumns(self._root[list(samples)], chosen, self._features, self._slice_elements)

    def contracted(self, coefficients: Tensor) -> ProductColumns:
        """Return one column for each sample."""
        root = self._root.reshape(self.samples, self.per_sample, -1)
        shape = (self.samples, 1, *self._root.shape[2:])
        return ProductColumns((coefficients[:, None] @ root).reshape(shape), self._input, self._features)

    def bytes(self) -> int:
        """Return how many bytes are held."""
        return self._root.nbytes + self._input.values.nbytes

    def check_sum(self, total: Parts) -> tuple[Tensor, Tensor]:
        """Return a deviation and its scale, for whether the columns add up to a vector.

        Both sides are multiplied with a probe along the features, `Σ_f V[g, o, f] q[g, f]`, which takes 1 / o of the
        operations of the sum itself, and misses a deviation only if it is orthogonal to the probe (Freivalds 1977).

        Args:
            total: The vector (K = 1).
        """
        given = dict(zip(self._input.names, total, strict=True))
        count = self._groups * self._features
        probe = torch.cos(torch.arange(1, count + 1, dtype=self._root.dtype, device=self._root.device) * 2.399963)
        probe = probe.reshape(self._groups, self._features)
        probes: dict[str, Tensor] = {}
        expected = self._root.new_zeros(self._groups, self._outputs)
        if "bias" in given:
            probe, probes["bias"] = probe[:, :-1], probe[:, -1]
            expected = given["bias"].reshape(self._groups, self._outputs) * probes["bias"][:, None]
        if "weight" in given:
            probes["weight"] = probe
            products = self._input.family.products(self._input.layer, given["weight"])[0]
            expected = expected + (products @ probe[..., None])[..., 0]
        responses = self._input.response(probes)
        found = torch.einsum("naGol,nGl->Go", self._root, responses)
        scale = (self._root.flatten(1).norm(dim=1) * responses.flatten(1).norm(dim=1)).sum()
        return (found - expected).norm(), scale

    def _slice_of(self, vectors: Parts, outputs: slice) -> Tensor:
        """Return the entries of vectors that belong to some outputs, `[K, size of the slice]`."""
        given = dict(zip(self._input.names, vectors, strict=True))
        parts = []
        if "weight" in given:
            parts.append(self._input.family.products(self._input.layer, given["weight"])[:, :, outputs])
        if "bias" in given:
            biases = given["bias"].reshape(len(vectors[0]), self._groups, self._outputs, 1)
            parts.append(biases[:, :, outputs])
        return torch.cat(parts, dim=-1).reshape(len(vectors[0]), -1)

    def _slices(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield outputs and the columns formed for them, `[count, size of the slice]`."""
        features = self._input.features()
        width = max(1, self._slice_elements // max(1, self.count * self._groups * self._features))
        for start in range(0, self._outputs, width):
            outputs = slice(start, min(start + width, self._outputs))
            yield outputs, form(self._root[:, :, :, outputs], features).reshape(self.count, -1)


def _add_pairs(block: Tensor, root: Tensor, features: Tensor, roots: Tensor, others: Tensor) -> None:
    """Add inner products `Σ_ll' (S_l · S'_l') (A_l · A'_l')`, of rows with columns, to a block of a Gram matrix.

    Args:
        block: Tensor `[b · A, b' · A']`.
        root: Root of the rows, `[b, A, g, o, L]`.
        features: Features of the rows, `[b, g, f, L]`.
        roots: Root of the columns, `[b', A', g, o, L']`.
        others: Features of the columns, `[b', g, f, L']`.
    """
    (rows, per_row), (columns, per_column) = root.shape[:2], roots.shape[:2]
    for group in range(root.shape[2]):
        mine, theirs = root[:, :, group].transpose(-1, -2), roots[:, :, group].transpose(-1, -2)  # [b, A, L, o]
        products = mine.flatten(0, 2) @ theirs.flatten(0, 2).T
        alike = features[:, group].transpose(-1, -2).flatten(0, 1) @ others[:, group].transpose(-1, -2).flatten(0, 1).T
        if root.shape[-1] == roots.shape[-1] == 1:
            shape = (rows, per_row, columns * per_column)
            spread = alike.repeat_interleave(per_column, dim=1)[:, None]
            block.view(shape).addcmul_(products.view(shape), spread)
            continue
        pairs = (rows, per_row, root.shape[-1], columns, per_column, roots.shape[-1])
        spread = alike.reshape(rows, 1, root.shape[-1], columns, 1, roots.shape[-1])
        block += products.view(pairs).mul_(spread).sum((2, 5)).flatten(2).flatten(0, 1)
