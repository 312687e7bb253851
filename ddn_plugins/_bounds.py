"""Bounds of fields: largest sizes, and the check of two fields that are a lower and an upper bound."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, Field

M = TypeVar("M", bound=BaseModel)

Width = Annotated[int, Field(gt=0, le=10**6)]
"""Width of a layer."""


def check_order(model: M, low: str, high: str) -> M:
    """Return the model unchanged if its lower bound is at most its upper bound, or if it has no upper bound.

    Args:
        model: The model.
        low: Name of the field of the lower bound.
        high: Name of the field of the upper bound, which may be `None`.

    Raises:
        ValueError: The upper bound is below the lower one.
    """
    lowest, highest = getattr(model, low), getattr(model, high)
    if highest is not None and highest < lowest:
        raise ValueError(f"{high} is {highest:g}, but {low} is {lowest:g}; give bounds in order")
    return model
