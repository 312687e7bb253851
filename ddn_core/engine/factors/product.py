"""Columns as a product of an operation's backpropagated root and its input: the form of every family.

Let `S[n, a, g, o, l]` be the root at the output of an operation, and `A[n, g, l, f]` the features of its input. g runs
over the groups, o over the outputs and f over the features of a group, and l over the L positions at which the
operation is applied. Then column `(n, a)` is

    V[n, a][g, o, f] = Σ_l S[n, a, g, o, l] A[n, g, l, f].

A linear layer has f = in and L = 1, or a sequence axis. A convolution has the unfolded input, f = in · kernel. A scale
of channels has a group for each channel with o = f = 1. An embedding has one-hot features. The bias is one more
feature, which is 1 everywhere. There are three contractions for the inner products, of which the cheapest is used:

| contraction | products | operations |
| --- | --- | --- |
| outer, for L = 1 | `(S Sᵀ) ∘ (A Aᵀ + 1)` | R² o / 2 + B² f / 2 |
| pairs | `Σ_l S[n]_l · (Σ_l' K_ll' S[n']_l')`, `K = A[n] A[n']ᵀ + 1` | B² (L² f + A o L² + A² o L) / 2 |
| formed | V for a slice of outputs at a time, `V Vᵀ` | R o f L + R² o f / 2 |

The first contraction is that of ViViT (Dangel et al. 2022, section 3). The second one works on pairs of samples: the
matrix K of inner products of their features maps the root of one sample to the positions of the other. The
numbers of operations are for one group, and are summed over the groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ddn_core.engine.factors.columns import (
    SMALL_GRAM,
    Columns,
    ParameterVector,
    ParameterVectors,
    add_upper_products,
    block_length,
)
from ddn_core.engine.factors.contraction import (
    Contraction,
    add_outer_products,
    add_pair_products,
    cheapest_contraction,
    form,
    form_whole,
)
from ddn_core.engine.factors.factor_input import FactorInput
from ddn_core.engine.factors.layout import WeightLayout

FEATURE_ELEMENTS = 2**20
"""Largest number of elements of an input that is unfolded at a time."""

BIAS_PROBE = 0.7371
"""Weight of the bias in the probe of `check_sum`."""

ROUNDING = 32.0
"""Allowed deviation of a response, in rounding errors of its largest terms."""

HELD_ELEMENTS = 2**23
"""Largest number of elements of an unfolded input that is held while columns are formed for one slice after another."""

OUTER_BLOCKS, OUTER_ROWS = 4, 320
"""Like `columns.BLOCKS` and `columns.BLOCK_ROWS`, but for products with as much memory traffic as arithmetic."""

SLICE_ELEMENTS = 2**22
"""Largest number of elements of the columns that are formed at a time: a few MB, which fit into a cache."""


class ProductColumns(Columns):
    """Columns that are held as the backpropagated root and the input of the operation."""

    def __init__(self, root: Tensor, factor_input: FactorInput, slice_elements: int = SLICE_ELEMENTS) -> None:
        """Keep root and input; nothing is computed yet.

        Args:
            root: Columns at the operation's output, `[B, A, g, o, L]`.
            factor_input: Input of the operation for the same samples.
            slice_elements: Largest number of elements of the columns that are formed at a time.
        """
        self._root = root
        self._slice_elements = slice_elements
        self._input = factor_input
        self.samples, self.per_sample, self._groups, self._outputs, self._positions = root.shape
        self._is_flat = self._groups == self._positions == 1  # root and features are matrices
        self._features = factor_input.feature_count
        self.size = self._groups * self._outputs * (self._features + factor_input.has_bias)
        self.layout = WeightLayout(factor_input.family, factor_input.names)

    @cached_property
    def _flat_root(self) -> Tensor:
        """The root of flat columns, `[count, o]`."""
        return self._root.reshape(self.count, self._outputs)

    @property
    def fills_gram(self) -> bool:
        """True for a small number of columns, unless their contraction takes pairs of samples."""
        return self.count <= SMALL_GRAM and self.contraction != "pairs"

    @cached_property
    def contraction(self) -> Contraction:
        """Contraction with the fewest operations for the Gram matrix."""
        features = self._features + self._input.has_bias
        return cheapest_contraction(
            self.samples, self.per_sample, self._groups, self._outputs, features, self._positions
        )[0]

    @property
    def held_elements(self) -> int:
        """Number of elements that are held, without the input of the operation."""
        return self._root.numel()

    def accumulate(self, gram: Tensor, vector: ParameterVectors | None, products: Tensor | None) -> None:
        """Add the upper blocks of the Gram matrix, and the products with a vector."""
        if self.contraction == "formed":
            for outputs, columns in self._slices():
                add_upper_products(gram, columns)
                if vector is not None and products is not None:
                    products.addmv_(columns, self._slice_of(vector, outputs)[0])
            if self._input.has_bias:
                add_upper_products(gram, self._bias_columns())
                if vector is not None and products is not None:
                    products.addmv_(self._bias_columns(), vector[-1][0])
            return
        if self.contraction == "outer" and self.count <= SMALL_GRAM:
            self._accumulate_outer(gram)
            if vector is not None and products is not None:
                products += self.project(vector)[:, 0]
            return
        features = self._input.features()
        for samples, rows in self._row_blocks(self._positions > 1):
            block, rest = gram[rows, rows.start :], slice(samples.start, None)
            self._add_products(block, self._root[samples], features[samples], rest, features[rest])
        if vector is not None and products is not None:
            products += self.project(vector)[:, 0]

    def _accumulate_outer(self, gram: Tensor) -> None:
        """Add the whole Gram matrix of a small number of columns, which takes fewer calls than its upper blocks."""
        for group in range(self._groups):
            if self._is_flat:
                root, features = self._flat_root, self._input.flat_features()
            else:
                root = self._root[:, :, group].reshape(self.count, self._outputs)
                features = self._input.features()[:, group, 0]
            alike = features @ features.T
            if self._input.has_bias:
                alike.add_(1.0)
            if self.per_sample > 1:
                shape = (self.samples, self.per_sample, self.samples, self.per_sample)
                products = (root @ root.T).view(shape)
                gram.view(shape).addcmul_(products, alike.view(self.samples, 1, self.samples, 1))
            else:
                gram.addcmul_(root @ root.T, alike)

    def inner(self, other: Columns) -> Tensor:
        """Return the inner products, `[count, other.count]`."""
        if not isinstance(other, ProductColumns):
            return other.inner(self).T
        if other.layout != self.layout:
            return other._inner_by_forming(self).T if other.count < self.count else self._inner_by_forming(other)
        result = self._root.new_zeros(self.count, other.count)
        features, others = self._input.features(), other._input.features()
        if self.contraction != "formed":
            for samples, rows in self._row_blocks(self._positions > 1 or other._positions > 1):
                other._add_products(result[rows], self._root[samples], features[samples], slice(None), others)
            return result
        for outputs, columns in self._slices():
            theirs = form(other._root[:, :, :, outputs], others)
            result.addmm_(columns, theirs.reshape(other.count, -1).T)
        if self._input.has_bias:
            result.addmm_(self._bias_columns(), other._bias_columns().T)
        return result

    def combine(self, weights: Tensor) -> ParameterVectors:
        """Return linear combinations of the columns."""
        count, family = weights.shape[1], self._input.family
        found = {}
        if self._positions > 1 and count > self.per_sample:
            parts = [
                (weights.T @ columns).reshape(count, self._groups, -1, self._features) for _, columns in self._slices()
            ]
            matrices = torch.cat(parts, dim=2)
            found["bias"] = weights.T @ self._bias_columns()
        else:
            if count == 1 and self._is_flat:
                return tuple(part[None] for part in self.combine_one(weights[:, 0]))
            stacked = weights.reshape(self.samples, self.per_sample, count).transpose(1, 2)  # [B, K, A]
            root = self._root.reshape(self.samples, self.per_sample, -1)
            roots = (stacked @ root).reshape(self.samples, count, *self._root.shape[2:])
            found["bias"] = roots.sum((0, -1)).reshape(count, -1)
            if self._input.has_weight:
                matrices = family.weight_gradient(self._input.values, roots.transpose(0, 1))
        if self._input.has_weight:
            found["weight"] = family.to_weights(matrices)
        return tuple(found[name] for name in self._input.names)

    def combine_one(self, weights: Tensor) -> ParameterVector:
        """Return one linear combination of the columns."""
        if not self._is_flat:
            return super().combine_one(weights)
        if self.per_sample == 1:
            combined = self._flat_root.T * weights  # [o, B]
        else:
            root = self._flat_root.view(self.samples, self.per_sample, self._outputs)
            combined = torch.bmm(weights.view(self.samples, 1, self.per_sample), root).squeeze(1).T
        found = {}
        if self._input.has_weight:
            found["weight"] = self._input.family.summed_products(combined, self._input.values)
        if self._input.has_bias:
            found["bias"] = combined.sum(1)
        return tuple(found[name] for name in self._input.names)

    def project(self, vectors: ParameterVectors) -> Tensor:
        """Return the inner products with vectors, `[count, K]`."""
        given = dict(zip(self._input.names, vectors, strict=True))
        count = len(vectors[0])
        if count == 1 and self._is_flat:
            return self.project_one(tuple(part[0] for part in vectors))[:, None]
        result = self._root.new_zeros(self.count, count)
        if self._positions > 1 and count > self.per_sample:
            for outputs, columns in self._slices():
                result.addmm_(columns, self._slice_of(vectors, outputs).T)
        elif "weight" in given:
            weights = self._input.family.to_matrices(given["weight"])
            root = self._root.reshape(self.samples, self.per_sample, -1)
            for number, matrix in enumerate(weights):
                response = self._input.family.apply(self._input.values, matrix)
                result[:, number] = (root @ response.reshape(self.samples, -1, 1)).reshape(-1)
        if "bias" in given:
            result.addmm_(self._bias_columns(), given["bias"].reshape(count, -1).T)
        return result

    def project_one(self, vector: ParameterVector) -> Tensor:
        """Return the inner products with one vector, `[count]`."""
        if not self._is_flat:
            return super().project_one(vector)
        given, root = dict(zip(self._input.names, vector, strict=True)), self._flat_root
        bias = given.get("bias")
        if bias is not None and bias.dim() > 1:
            bias = bias.reshape(-1)
        if "weight" in given:
            response = self._input.family.flat_response(self._input.values, given["weight"], bias)
        else:
            assert bias is not None
            return root @ bias
        if self.per_sample == 1:
            return (root * response).sum(1)
        return (root.view(self.samples, self.per_sample, -1) * response[:, None]).sum(-1).reshape(-1)

    def formed(self) -> Tensor:
        """Return the columns, `[count, size]`."""
        return form_whole(self._root, self._input).reshape(self.count, -1)

    def select(self, samples: Sequence[int]) -> ProductColumns:
        """Return the columns of some samples."""
        return ProductColumns(self._root[list(samples)], self._input.select(samples), self._slice_elements)

    def scaled(self, factor: float) -> ProductColumns:
        """Return the columns times a factor."""
        return ProductColumns(factor * self._root, self._input, self._slice_elements)

    def contracted(self, coefficients: Tensor) -> ProductColumns:
        """Return one column for each sample."""
        root = self._root.reshape(self.samples, self.per_sample, -1)
        shape = (self.samples, 1, *self._root.shape[2:])
        return ProductColumns((coefficients[:, None] @ root).reshape(shape), self._input)

    def check_sum(self, total: ParameterVectors) -> tuple[Tensor, Tensor]:
        """Return the deviation of the columns' sum from a vector, and the scale to compare the deviation with.

        There is one column for each sample. Both sides are multiplied with a probe along the features,
        `Σ_f V[g, o, f] q[g, f]`. This takes 1 / o of the operations of the sum itself, and misses only a deviation that
        is orthogonal to the probe (Freivalds 1977).

        Args:
            total: The expected sum, one vector (K = 1).
        """
        given = dict(zip(self._input.names, total, strict=True))
        root = self._root[:, 0]
        if "weight" in given:
            probe, responses = self._input.family.probe(self._input.values)
            expected = self._input.family.to_matrices(given["weight"])[0] @ probe[..., None]
        else:
            expected = root.new_zeros(self._groups, self._outputs, 1)
            responses = root.new_zeros(self.samples, self._groups, self._positions)
        if "bias" in given:
            responses = responses + BIAS_PROBE
            bias = given["bias"].reshape(self._groups, self._outputs, 1)
            expected = torch.add(expected, bias, alpha=BIAS_PROBE)
        if self._groups == self._positions == 1:
            found = root[:, 0, :, 0].T @ responses[..., 0]
        else:
            found = (root @ responses[..., None]).sum(0)
        norm = torch.linalg.vector_norm
        sizes = norm(responses.flatten(1), dim=1)
        if (
            "weight" in given and self._input.values.is_floating_point()
        ):  # responses can be small differences of large terms
            terms = norm(probe) * norm(self._input.values.flatten(1), dim=1) + BIAS_PROBE
            sizes = sizes + ROUNDING * torch.finfo(root.dtype).eps ** 0.5 * terms
        return norm(found - expected), norm(root.flatten(1), dim=1) @ sizes

    def _inner_by_forming(self, other: ProductColumns) -> Tensor:
        """Return the inner products with columns of another layout; these columns are formed some samples at a time."""
        width = max(1, self._slice_elements // (self.per_sample * self.size))
        parts = []
        for start in range(0, self.samples, width):
            some = self.select(range(start, min(start + width, self.samples)))
            parts.append(other.project(self.layout.split(some.formed())).T)
        return torch.cat(parts)

    def _slice_of(self, vectors: ParameterVectors, outputs: slice) -> Tensor:
        """Return the entries of weight vectors that belong to a slice of outputs, `[K, size of the slice]`."""
        matrices = self._input.family.to_matrices(vectors[self._input.names.index("weight")])
        return matrices[:, :, outputs].reshape(len(matrices), -1)

    def _slices(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of outputs, each with the weight's columns formed for it, `[count, size of the slice]`.

        The next slice overwrites the columns of the one before, so use them first.
        """
        if not self._input.has_weight:
            return
        width = min(self._outputs, max(1, self._slice_elements // max(1, self.count * self._groups * self._features)))
        unfolded = self.samples * self._groups * self._positions * self._features
        features = self._input.features() if width < self._outputs and unfolded <= HELD_ELEMENTS else None
        store = self._root.new_empty(self.count * width * self._features if self._groups == 1 else 0)
        for start in range(0, self._outputs, width):
            outputs = slice(start, min(start + width, self._outputs))
            roots = self._root[:, :, :, outputs]
            if self._groups > 1:
                columns = form(roots, self._input.features() if features is None else features)
            else:
                columns = store[: self.count * roots.shape[3] * self._features]
                self._form_into(columns.view(self.samples, -1, self._features), roots, features)
            yield outputs, columns.reshape(self.count, -1)

    def _form_into(self, columns: Tensor, roots: Tensor, features: Tensor | None) -> None:
        """Write columns `[B, A · o, f]` of one group; if no features are given, unfold a few samples at a time."""
        chunk = self.samples if features is not None else max(1, FEATURE_ELEMENTS // (self._positions * self._features))
        for start in range(0, self.samples, chunk):
            samples = slice(start, start + chunk)
            stacked = roots[samples].reshape(-1, columns.shape[1], self._positions)
            others = self._input.features(samples) if features is None else features
            torch.bmm(stacked, others[:, 0], out=columns[samples])

    def _bias_columns(self) -> Tensor:
        """Return the columns of the bias, `[count, g · o]`."""
        return self._root.sum(-1).reshape(self.count, -1)

    def _row_blocks(self, single: bool) -> Iterator[tuple[slice, slice]]:
        """Yield blocks of samples, each with its rows of the Gram matrix.

        Args:
            single: True for blocks of one sample, which the contraction by pairs takes.
        """
        width = 1 if single else max(1, block_length(self.count, OUTER_BLOCKS, OUTER_ROWS) // self.per_sample)
        for start in range(0, self.samples, width):
            stop = min(start + width, self.samples)
            yield slice(start, stop), slice(start * self.per_sample, stop * self.per_sample)

    def _add_products(self, block: Tensor, root: Tensor, features: Tensor, mine: slice, my_features: Tensor) -> None:
        """Add the inner products of given columns, the block's rows, with these columns to a block of a Gram matrix.

        Args:
            block: Tensor `[b · a, B · A]`.
            root: Root of the rows, `[b, a, g, o, l]`; with several positions, b = 1.
            features: Features of the rows, `[b, g, l, f]`.
            mine: Samples of these columns.
            my_features: Features of these samples, `[B, g, L, f]`.
        """
        roots, bias = self._root[mine], float(self._input.has_bias)
        for group in range(self._groups):
            given = (root[:, :, group], features[:, group], roots[:, :, group], my_features[:, group], bias)
            if root.shape[-1] == roots.shape[-1] == 1:
                add_outer_products(block, *given)
            else:
                add_pair_products(block, *given, self._slice_elements)
