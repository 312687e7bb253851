"""How far a mean over samples can be told from zero."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def relative_variance(values: Tensor) -> Tensor:
    """Return the variance of the mean over its square, `(var x_k / N) / x̄_k²`, for samples `[N, K]`, as `[K]`.

    The variance is the unbiased one. With a single sample nothing is known of the noise, and it counts as none. Where
    the mean is zero it is +inf.
    """
    samples = len(values)
    if samples < 2:
        return values.new_zeros(values.shape[1]).masked_fill(values.mean(0) == 0, math.inf)
    scale = values.abs().amax(0)
    values = values / scale.masked_fill(scale == 0, 1.0)  # squares of small numbers underflow
    means = values.mean(0)
    return (values.var(0) / samples / means.square()).masked_fill(means == 0, math.inf)
