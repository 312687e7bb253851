"""The law of Marchenko and Pastur (1967) for the eigenvalues of a sample covariance of pure noise."""

from __future__ import annotations

import math
from functools import lru_cache

POINTS = 4000


def edge(aspect: float) -> float:
    """Return the upper edge of the spectrum, for entries of variance 1.

    Args:
        aspect: Ratio of the smaller to the larger side of the noise matrix, above 0 and at most 1.
    """
    return (1 + math.sqrt(aspect)) ** 2


@lru_cache(maxsize=64)
def median(aspect: float) -> float:
    """Return the median of the nonzero eigenvalues, for entries of variance 1.

    The density is `√((b - x)(x - a)) / (2π aspect x)` between `a = (1 - √aspect)²` and `b = (1 + √aspect)²`. With
    `x = a + (b - a) sin² θ` it has no singularity, and the midpoint rule is accurate.
    """
    low, width = (1 - math.sqrt(aspect)) ** 2, 4 * math.sqrt(aspect)
    step = 0.5 * math.pi / POINTS
    squares = [math.sin(step * (point + 0.5)) ** 2 for point in range(POINTS)]
    weights = [square * (1 - square) / (low + width * square) for square in squares]
    half, total = 0.5 * sum(weights), 0.0
    for point, weight in enumerate(weights):
        if total + weight >= half:
            return low + width * math.sin(step * (point + (half - total) / weight)) ** 2
        total += weight
    raise AssertionError("the weights add up to more than their half")
