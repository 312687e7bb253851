"""Two fields of which one bounds the other."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)


def in_order(model: M, low: str, high: str) -> M:
    """Return a model whose lower bound is at most its upper one, where there is an upper one.

    Args:
        model: The model.
        low: Name of the field of the lower bound.
        high: Name of the field of the upper bound, which may be `None`.

    Raises:
        ValueError: The bounds are not in order.
    """
    lowest, highest = getattr(model, low), getattr(model, high)
    if highest is not None and highest < lowest:
        raise ValueError(f"{high} is {highest:g}, but {low} is {lowest:g}; give bounds in order")
    return model
