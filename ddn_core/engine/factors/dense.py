"""Columns as they are: for biases, which are small, and for layers that have no structured form yet."""

from __future__ import annotations

from torch import Tensor

from ddn_core.engine.factors.columns import Columns


class DenseColumns(Columns):
    """Columns that are held as one tensor."""

    def __init__(self, columns: Tensor) -> None:
        """Wrap the columns.

        Args:
            columns: Tensor `[count, *parameter.shape]`.
        """
        self._columns = columns
        self.shape = columns.shape[1:]
        self.count = columns.shape[0]

    def inner(self, other: Columns) -> Tensor:
        """Return the inner products, `[count, other.count]`."""
        return self.dense().reshape(self.count, -1) @ other.dense().reshape(other.count, -1).T

    def combine(self, weights: Tensor) -> Tensor:
        """Return linear combinations of the columns, `[K, *shape]`."""
        return (weights.T @ self._columns.reshape(self.count, -1)).reshape(-1, *self.shape)

    def norm_bound(self) -> Tensor:
        """Return the sum of the columns' norms."""
        return self._columns.reshape(self.count, -1).square().sum(1).sqrt().sum()

    def dense(self) -> Tensor:
        """Return the columns, `[count, *shape]`."""
        return self._columns
