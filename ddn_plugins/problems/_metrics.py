"""Metrics: functions with one value per sample; `ddn train` reports the mean over the test data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return 1 for each sample whose largest output belongs to the target class, else 0, `[N]`."""
    return (outputs.argmax(1) == targets).to(outputs.dtype)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error of each sample, summed over the outputs, `[N]`."""
    return (outputs - targets).square().flatten(1).sum(1)


def absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the absolute error of each sample, summed over the outputs, `[N]`."""
    return (outputs - targets).abs().flatten(1).sum(1)
