"""Combinations of dampings that are one number each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddn_core.api import Context, Damping


def combined(dampings: Sequence[Damping], context: Context, combine: Callable[[list[float]], float]) -> float | None:
    """Return the combination of dampings that are one number for all directions; `None` if one of them is not."""
    values = [value for damping in dampings if (value := damping.uniform(context)) is not None]
    return combine(values) if len(values) == len(dampings) else None
