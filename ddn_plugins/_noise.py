"""Noise of a mean over samples, relative to the mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def relative_variance(values: Tensor) -> Tensor:
    """Return the variance of the mean, divided by its square, `(var x_k / N) / x̄_k²`, `[K]`, for samples `[N, K]`.

    The variance is the unbiased estimate. For a single sample, which has no such estimate, the result is zero. If the
    mean is zero, the result is +inf.
    """
    samples = len(values)
    if samples < 2:
        return values.new_zeros(values.shape[1]).masked_fill(values.mean(0) == 0, math.inf)
    scale = values.abs().amax(0)
    values = values / scale.masked_fill(scale == 0, 1.0)  # squares of small numbers underflow
    means = values.mean(0)
    return (values.var(0) / samples / means.square()).masked_fill(means == 0, math.inf)
