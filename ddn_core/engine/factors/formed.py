"""Columns as they are: for layers whose parameters are few, and for parameters that layers share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ddn_core.engine.factors.columns import Columns, add_upper_products


class FormedColumns(Columns):
    """Columns that are held as one tensor."""

    def __init__(self, values: Tensor) -> None:
        """Wrap the columns.

        Args:
            values: Tensor `[B, A, size]`, contiguous.
        """
        self.samples, self.per_sample, self.size = values.shape
        self._values = values.reshape(-1, self.size)

    def accumulate(self, gram: Tensor, vector: Tensor | None, products: Tensor | None) -> None:
        """Add the upper blocks of the Gram matrix, and the products with a vector."""
        add_upper_products(gram, self._values, self.samples, self.per_sample)
        if vector is not None and products is not None:
            products.addmv_(self._values, vector)

    def inner(self, other: Columns) -> Tensor:
        """Return the inner products, `[count, other.count]`."""
        return other.project(self._values).T

    def combine(self, weights: Tensor) -> Tensor:
        """Return linear combinations of the columns, `[K, size]`."""
        return weights.T @ self._values

    def project(self, vectors: Tensor) -> Tensor:
        """Return the inner products with vectors, `[count, K]`."""
        return self._values @ vectors.T

    def formed(self) -> Tensor:
        """Return the columns, `[count, size]`."""
        return self._values

    def select(self, samples: Sequence[int]) -> FormedColumns:
        """Return the columns of some samples."""
        return FormedColumns(self._values.reshape(self.samples, self.per_sample, -1)[list(samples)])

    def bytes(self) -> int:
        """Return how many bytes are held."""
        return self._values.nbytes
