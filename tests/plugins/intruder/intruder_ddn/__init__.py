"""Gives a damping a name that is not its own."""

from __future__ import annotations

from torch import Tensor

from ddn_core.api import Damping, Directions, hookimpl


class Constant(Damping, kind="constant"):
    """Claims the kind of a built-in damping."""

    def damp(self, directions: Directions) -> Tensor:
        """Return zeros."""
        return directions.evals.new_zeros(len(directions))


@hookimpl
def ddn_dampings() -> list[type[Damping]]:
    """Return the damping."""
    return [Constant]
