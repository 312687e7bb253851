"""Metrics: a value for each sample, of which `ddn train` reports the mean over the test data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return for each sample 1 if the largest output is that of the target class, else 0, `[N]`."""
    return (outputs.argmax(1) == targets).to(outputs.dtype)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return for each sample the squared error, summed over the outputs, `[N]`."""
    return (outputs - targets).square().flatten(1).sum(1)


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return for each sample the absolute error, summed over the outputs, `[N]`."""
    return (outputs - targets).abs().flatten(1).sum(1)
