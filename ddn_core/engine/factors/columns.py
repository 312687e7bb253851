"""What every form of a factor can do: inner products, linear combinations, projections of its columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from ddn_core.engine.factors.layout import Layout

ParameterVectors = tuple[Tensor, ...]
"""Vectors in the space of a layer's parameters: `[K, *parameter.shape]` for each of them."""

BLOCKS = 8
"""Into how many blocks of rows a large Gram matrix is cut, so that little more than half of it is computed."""
BLOCK_ROWS = 96
"""Number of rows below which a block is not worth its calls; a multiple of the widths that matrix products work in."""


class Columns(ABC):
    """`B · A` vectors in the space of a layer's parameters, without the vectors being formed.

    B is the number of samples, A the number of columns per sample (C model outputs, M Monte-Carlo samples, or 1 for a
    gradient). Column `(n, a)` has the flat index `n · A + a`: samples come first, so that a layer's columns for one
    sample lie together.
    """

    samples: int
    """Number of samples, B."""

    per_sample: int
    """Number of columns per sample, A."""

    size: int
    """Number of entries of a column."""

    layout: Layout
    """How the entries of a formed column are shared out among the parameters."""

    @property
    def count(self) -> int:
        """Number of columns, `B · A`."""
        return self.samples * self.per_sample

    @abstractmethod
    def accumulate(self, gram: Tensor, vector: ParameterVectors | None, products: Tensor | None) -> None:
        """Add the upper blocks of the Gram matrix, and the products with a vector.

        Args:
            gram: Tensor `[count, count]`; its upper triangle is complete afterwards, the rest is not.
            vector: One vector (K = 1); none, if no products are wanted.
            products: Tensor `[count]`, that the inner products of the columns with the vector are added to.
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

    @abstractmethod
    def formed(self) -> Tensor:
        """Return the columns themselves, `[count, size]`: large, for what is small or has no structured form."""

    @abstractmethod
    def select(self, samples: Sequence[int]) -> Self:
        """Return the columns of some samples, in this order."""

    @abstractmethod
    def contracted(self, coefficients: Tensor) -> Columns:
        """Return one column for each sample, the combination of its A columns with coefficients `[B, A]`."""


def block_length(rows: int, blocks: int = BLOCKS, least: int = BLOCK_ROWS) -> int:
    """Return how many rows of a Gram matrix are computed at a time."""
    return max(least, BLOCK_ROWS * -(-rows // (blocks * BLOCK_ROWS)))


def mirror(gram: Tensor) -> Tensor:
    """Fill what `Columns.accumulate` leaves out, in place: the transpose of the upper triangle."""
    for start in range(0, len(gram), BLOCK_ROWS):
        rows, rest = slice(start, start + BLOCK_ROWS), slice(start + BLOCK_ROWS, None)
        diagonal = gram[rows, rows]
        diagonal.copy_(diagonal.triu() + diagonal.triu(1).T)
        gram[rest, rows] = gram[rows, rest].T
    return gram


def add_upper_products(gram: Tensor, columns: Tensor) -> None:
    """Add the upper blocks of `columns columnsᵀ` to the Gram matrix, for formed columns `[count, size]`."""
    step = block_length(len(columns))
    for start in range(0, len(columns), step):
        rows, rest = slice(start, start + step), slice(start, None)
        torch.addmm(gram[rows, rest], columns[rows], columns[rest].T, out=gram[rows, rest])
