"""The largest batch whose step stays under a limit of extra memory."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.measuring.failure import failed

_CLOSE, _AIM = 0.95, 0.98
_LEAP = 4
_PROBES = 8


def largest_batch(probe: Callable[[int], dict[str, Any]], start: int, budget: float, limit: float) -> dict[str, Any]:
    """Return the largest batch under a memory limit, and whether a step with it was made.

    The Gram matrix grows like N², and everything else like N, so the memory of the largest measured batches is fitted
    by a polynomial of degree two. The next batch has the size at which this polynomial reaches the limit, but at most
    four times the last size. The search ends when a measured batch takes at least 95 % of the limit. If the time runs
    out before, the polynomial gives the result.

    Args:
        probe: Returns memory and time of a step with the given number of samples, or a failure.
        start: First number of samples.
        budget: Limit of the extra memory, bytes.
        limit: Time limit of the search, seconds. A probe only starts if it would end in time when its time grows like
            N².
    """
    begin = perf_counter()
    points: dict[int, float] = {}
    samples, reason = start, "enough probes"
    for _ in range(_PROBES):
        before = perf_counter()
        found = probe(samples)
        took = perf_counter() - before
        if failed(found):
            reason = str(found["failure"])
            break
        points[samples] = found["bytes"]
        low = max((n for n, size in points.items() if size <= budget), default=0)
        high = min((n for n, size in points.items() if size > budget), default=None)
        if low and (points[low] >= _CLOSE * budget or high == low + 1):
            return {"largest": low, "bytes": points[low], "made": True, "points": list(points.items())}
        highest = _LEAP * low if high is None else high - 1
        following = max(low + 1, min(_reach(points, _AIM * budget), highest))
        expected = took + found["seconds"] * (max(1.0, following / samples) ** 2 - 1)
        if perf_counter() - begin + expected > limit:
            reason = "no time left"
            break
        samples = following
    reached = _reach(points, budget) if points else None
    return {"largest": reached, "made": False, "points": list(points.items()), "reason": reason}


def _reach(points: dict[int, float], budget: float) -> int:
    """Return the batch size at which the polynomial through the three largest batches reaches the budget."""
    batches = sorted(points)[-3:]
    if len(batches) > 1:
        excess = [points[batch] - budget for batch in batches]
        roots = np.roots(np.polyfit(batches, excess, len(batches) - 1))
        if real := [float(root.real) for root in roots if root.real > 0 and abs(root.imag) <= 1e-6 * abs(root)]:
            return max(1, int(min(real)))
    return max(1, int(batches[-1] * budget / points[batches[-1]]))
