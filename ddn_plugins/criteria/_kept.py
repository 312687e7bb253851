"""How many criteria keep each direction: what the combinators of criteria are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ddn_core.api import Context, Criterion, Directions


def count_kept(criteria: Sequence[Criterion], directions: Directions) -> Tensor:
    """Return for each direction by how many criteria it is kept, int64 `[K]`."""
    count = directions.evals.new_zeros(len(directions)).long()
    for criterion in criteria:
        count[criterion(directions)] += 1
    return count


def leading(criteria: Sequence[Criterion], context: Context) -> int | None:
    """Return how many leading directions suffice for all of the criteria; `None` if one of them needs all."""
    needed = [criterion.leading_directions(context) for criterion in criteria]
    numbers = [number for number in needed if number is not None]
    return max(numbers) if len(numbers) == len(needed) else None
