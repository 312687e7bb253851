"""Combinations of dampings of which each is one number for all directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddn_core.api import Context, Damping


def combined_uniform(
    dampings: Sequence[Damping], context: Context, combine: Callable[[list[float]], float]
) -> float | None:
    """Return the combination of dampings if each is one number for all directions, else `None`."""
    values = [value for damping in dampings if (value := damping.uniform(context)) is not None]
    return combine(values) if len(values) == len(dampings) else None
