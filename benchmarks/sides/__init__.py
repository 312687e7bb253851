"""The sides of a comparison; each makes full steps by its own method, on its own copy of the problem."""

from __future__ import annotations

from benchmarks.sides.gradient import GradientSide
from benchmarks.sides.ours import OurSide
from benchmarks.sides.side import Side
from benchmarks.sides.vivit import VivitSide

SIDES: dict[str, type[Side]] = {"gradient": GradientSide, "ours": OurSide, "vivit": VivitSide}
"""All sides, by their names in the results."""

__all__ = ["SIDES", "GradientSide", "OurSide", "Side", "VivitSide"]
