"""Colours for all kinds of colour vision, and the style of axes."""

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
"""Colour map for ordered values, such as steps."""


def styles() -> Iterator[Mapping[str, Any]]:
    """Yield pairs of colour and line style; the first 28 all differ."""
    while True:
        for line in LINES:
            for color in COLORS:
                yield {"color": color, "linestyle": line}


def markers() -> Iterator[str]:
    """Yield markers without end."""
    return cycle(MARKERS)


def current(ax: Axes | None) -> Axes:
    """Return the given axes, or the current axes of pyplot."""
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.gca()


def tidy(ax: Axes, **labels: Any) -> Axes:
    """Set labels and scales, add a light grid, and remove the frame at the top and at the right."""
    ax.set(**labels)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
