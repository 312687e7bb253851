"""The sides of a comparison: each makes its own kind of full step on a problem of its own."""

from __future__ import annotations

from benchmarks.sides.gradient import GradientSide
from benchmarks.sides.ours import OurSide
from benchmarks.sides.side import Side
from benchmarks.sides.vivit import VivitSide

SIDES: dict[str, type[Side]] = {"gradient": GradientSide, "ours": OurSide, "vivit": VivitSide}
"""Every side by the name that results use."""

__all__ = ["SIDES", "GradientSide", "OurSide", "Side", "VivitSide"]
