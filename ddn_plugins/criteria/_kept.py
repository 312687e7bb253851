"""How many criteria keep each direction: what the combinators of criteria are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddn_core.api import Criterion, Directions


def count_kept(criteria: Sequence[Criterion], directions: Directions) -> Tensor:
    """Return for each direction by how many criteria it is kept, int64 `[K]`."""
    count = torch.zeros(len(directions), dtype=torch.long, device=directions.evals.device)
    for criterion in criteria:
        count[criterion(directions)] += 1
    return count
