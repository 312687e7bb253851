"""The operations of every form of a factor: inner products, linear combinations and projections of its columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from ddn_core.engine.factors.layout import Layout

ParameterVectors = tuple[Tensor, ...]
"""K vectors in the space of a factor's parameters: `[K, *parameter.shape]` for each parameter."""

ParameterVector = tuple[Tensor, ...]
"""One vector in the space of a factor's parameters, in their shapes."""

BLOCKS = 8
"""Number of blocks of rows of a large Gram matrix: with blocks, little more than half of the matrix is computed."""
BLOCK_ROWS = 96
"""Smallest number of rows of a block, since smaller ones cost more calls than they save; a multiple of SIMD widths."""

SMALL_GRAM = 768
"""Number of rows up to which a Gram matrix is computed as a whole: this takes fewer calls than its upper blocks."""


class Columns(ABC):
    """`B · A` vectors in the space of a factor's parameters, which need not be formed.

    B is the number of samples. A is the number of columns per sample: C model outputs, M Monte-Carlo samples, or 1 for
    a gradient. Column `(n, a)` has the flat index `n · A + a`, so that the columns of one sample are adjacent.
    """

    samples: int
    """Number of samples, B."""

    per_sample: int
    """Number of columns per sample, A."""

    size: int
    """Number of entries of a column."""

    layout: Layout
    """Mapping between the entries of a formed column and the parameters."""

    @property
    def count(self) -> int:
        """Number of columns, `B · A`."""
        return self.samples * self.per_sample

    @property
    @abstractmethod
    def held_elements(self) -> int:
        """Number of elements that are held, without the input of the operation."""

    @property
    def fills_gram(self) -> bool:
        """True if `accumulate` adds the whole Gram matrix, rather than its upper blocks."""
        return False

    @abstractmethod
    def accumulate(self, gram: Tensor, vector: ParameterVectors | None, products: Tensor | None) -> None:
        """Add the upper blocks of the columns' Gram matrix to `gram`, and their products with a vector to `products`.

        Args:
            gram: Tensor `[count, count]`; only its upper triangle is complete afterwards, unless `fills_gram`.
            vector: One vector (K = 1); `None` if no products are needed.
            products: Tensor `[count]`, to which the inner products of the columns with the vector are added.
        """

    @abstractmethod
    def inner(self, other: Columns) -> Tensor:
        """Return the inner products of all columns with all columns of `other`, `[count, other.count]`."""

    @abstractmethod
    def combine(self, weights: Tensor) -> ParameterVectors:
        """Return V · weights, K vectors, for weights `[count, K]`."""

    @abstractmethod
    def project(self, vectors: ParameterVectors) -> Tensor:
        """Return Vᵀ · vectors, `[count, K]`, for K vectors."""

    def combine_one(self, weights: Tensor) -> ParameterVector:
        """Return V · weights, one vector, for weights `[count]`; a step needs no more than one."""
        return tuple(vectors[0] for vectors in self.combine(weights[:, None]))

    def project_one(self, vector: ParameterVector) -> Tensor:
        """Return Vᵀ · vector, `[count]`, for one vector."""
        return self.project(tuple(part[None] for part in vector))[:, 0]

    @abstractmethod
    def formed(self) -> Tensor:
        """Return the columns themselves, `[count, size]`; for small factors only, since the result is large."""

    @abstractmethod
    def select(self, samples: Sequence[int]) -> Self:
        """Return the columns of the given samples, in the given order."""

    @abstractmethod
    def scaled(self, factor: float) -> Self:
        """Return the columns times a factor."""

    @abstractmethod
    def contracted(self, coefficients: Tensor) -> Columns:
        """Return one column for each sample: the combination of its A columns with coefficients `[B, A]`."""


def block_length(rows: int, blocks: int = BLOCKS, least: int = BLOCK_ROWS) -> int:
    """Return the number of rows of a Gram matrix that are computed at a time."""
    return max(least, BLOCK_ROWS * -(-rows // (blocks * BLOCK_ROWS)))


def mirror(gram: Tensor) -> Tensor:
    """Fill the lower triangle of a Gram matrix, which `Columns.accumulate` leaves incomplete, in place."""
    if len(gram) <= SMALL_GRAM:
        return torch.add(gram.triu(), gram.triu(1).T, out=gram)
    for start in range(0, len(gram), BLOCK_ROWS):
        rows, rest = slice(start, start + BLOCK_ROWS), slice(start + BLOCK_ROWS, None)
        diagonal = gram[rows, rows]
        diagonal.copy_(diagonal.triu() + diagonal.triu(1).T)
        gram[rest, rows] = gram[rows, rest].T
    return gram


def add_upper_products(gram: Tensor, columns: Tensor) -> None:
    """Add the upper blocks of `columns columnsᵀ` to the Gram matrix, for formed columns `[count, size]`."""
    if len(columns) <= SMALL_GRAM:
        gram.addmm_(columns, columns.T)
        return
    step = block_length(len(columns))
    for start in range(0, len(columns), step):
        rows, rest = slice(start, start + step), slice(start, None)
        torch.addmm(gram[rows, rest], columns[rows], columns[rest].T, out=gram[rows, rest])
