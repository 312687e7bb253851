"""Colours that colour-blind people tell apart, and how axes look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""The palette of Okabe and Ito (2008), without yellow, which is too light for lines on white."""

LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GRAY = "0.55"
SEQUENCE = "viridis"
"""Colour map for what has an order, such as steps."""


def styles() -> Iterator[Mapping[str, Any]]:
    """Yield colours with lines, such that no two of the first 28 look alike."""
    while True:
        for line in LINES:
            for color in COLORS:
                yield {"color": color, "linestyle": line}


def markers() -> Iterator[str]:
    """Yield markers, over and over."""
    return cycle(MARKERS)


def current(ax: Axes | None) -> Axes:
    """Return axes to draw on: those given, or pyplot's."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.gca()


def tidy(ax: Axes, **labels: Any) -> Axes:
    """Set labels and scales, a light grid, and no frame at the top and at the right."""
    ax.set(**labels)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
