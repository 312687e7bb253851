"""Helpers for all figures: colours, sizes, grouped bars and legends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, THEIRS, GRADIENT = "#1f77b4", "#d95f02", "#7f7f7f"
COLOURS = {"ours": OURS, "vivit": THEIRS, "theirs": THEIRS, "gradient": GRADIENT}
LABELS = {"ours": "ours", "vivit": "ViViT", "theirs": "torch-levenberg-marquardt", "gradient": "gradient step"}
_SPREAD = 0.8
_UPRIGHT = 4


def figure(columns: int = 1, width: float = 7.5, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes side by side.

    Args:
        columns: Number of axes.
        width: Width of the figure, inches.
        height: Height, inches.
    """
    made = Figure(figsize=(width, height), layout="constrained")
    axes = [made.add_subplot(1, columns, column + 1) for column in range(columns)]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.9")
        axis.set_axisbelow(True)
    return made, axes


def grouped_bars(axis: Axes, names: Sequence[str], heights: Mapping[str, Sequence[float | None]]) -> None:
    """Draw groups of bars, without a bar for a missing measurement.

    Args:
        axis: Axes.
        names: Names of the groups.
        heights: For each side, the heights of its bars, one per group.
    """
    width = _SPREAD / len(heights)
    for place, (side, values) in enumerate(heights.items()):
        offset = (place - (len(heights) - 1) / 2) * width
        known = [(index + offset, value) for index, value in enumerate(values) if value is not None]
        if known:
            axis.bar([x for x, _ in known], [y for _, y in known], width, label=LABELS[side], color=COLOURS[side])
    name_groups(axis, names)


def name_groups(axis: Axes, names: Sequence[str]) -> None:
    """Label the groups with their names, which are slanted if there are many.

    Args:
        axis: Axes, with a group at each whole number.
        names: Names of the groups.
    """
    axis.set_xticks(range(len(names)), names)
    if len(names) > _UPRIGHT:
        for label in axis.get_xticklabels():
            label.set(rotation=25, ha="right", rotation_mode="anchor")


def legend(picture: Figure, below: bool = False) -> None:
    """Add one legend for all axes of a figure.

    Args:
        picture: Figure with labelled lines or bars.
        below: Place the legend below the axes, rather than to their right.
    """
    labelled: dict[str, Artist] = {}
    for axis in picture.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    handles, labels = list(labelled.values()), list(labelled)
    if below:
        picture.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    else:
        picture.legend(handles, labels, loc="outside right center", frameon=False)
