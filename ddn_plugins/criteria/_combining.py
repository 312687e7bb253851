"""Helpers of the criteria that combine other criteria."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Criterion, Directions


def count_kept(criteria: Sequence[Criterion], directions: Directions) -> Tensor:
    """Return for each direction the number of criteria that keep it, int64 `[K]`."""
    count = directions.evals.new_zeros(len(directions)).long()
    for criterion in criteria:
        count[criterion(directions)] += 1
    return count


def common_leading_directions(criteria: Sequence[Criterion], context: Context) -> int | None:
    """Return the number of leading directions that suffices for all criteria; `None` if one of them needs all."""
    needed = [criterion.leading_directions(context) for criterion in criteria]
    numbers = [number for number in needed if number is not None]
    return max(numbers) if len(numbers) == len(needed) else None
