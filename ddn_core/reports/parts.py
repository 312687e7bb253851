"""What a report is made of: sections with figures, switches and tables, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Frame = Mapping[str, Any]
"""One state of a figure: `data` and `layout` as Plotly takes them, and a `note` below it.

A colour is a name that the page looks up in its theme: `$c0` to `$c7` for series, `$q0.3` on the scale for what is in
order, `$accent`, `$muted`, `$line`; `$c0/0.2` is translucent.
"""


@dataclass(frozen=True)
class Switch:
    """A choice that figures of a section depend on; switches of equal name go together, in all sections.

    Attributes:
        name: Its name in the page.
        label: What stands before it.
        options: What can be chosen. A list of lists where they depend on the choice of another switch.
        kind: Buttons, a list to choose from, or a slider.
        of: Name of the switch that the options depend on, if they do.
        chosen: Number of the option that is chosen first.
    """

    name: str
    label: str
    options: Sequence[str] | Sequence[Sequence[str]]
    kind: Literal["buttons", "list", "slider"] = "buttons"
    of: str | None = None
    chosen: int = 0


@dataclass(frozen=True)
class Figure:
    """A plot that may depend on switches.

    Attributes:
        name: Its name in the page, unique there.
        title: What it shows, in words; with the unit.
        frames: Its states by the numbers of the chosen options, joined by `|`: `"0|3"`. One without switches has `""`.
        switches: Names of the switches that it depends on.
        wide: Whether it takes the whole width.
        about: What is read out in its place; the title by default.
    """

    name: str
    title: str
    frames: Mapping[str, Frame]
    switches: Sequence[str] = ()
    wide: bool = False
    about: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Attributes:
        caption: What it shows.
        columns: Head of each column; the first one names the rows.
        rows: Cells.
        marked: Numbers of rows that stand out.
        folded: Whether it is opened by the reader.
        numbers: Whether all columns but the first hold numbers, which stand at the right.
        tall: Whether it scrolls within the page.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: frozenset[int] = frozenset()
    folded: bool = False
    numbers: bool = True
    tall: bool = False


Look = Literal["line", "solid", "mark"]


@dataclass(frozen=True)
class Key:
    """An entry of the legend of a section.

    Attributes:
        name: What is shown.
        group: The `legendgroup` of its traces.
        index: Number of its series, for colour, dash and marker.
        look: Whether it is shown as lines with dashes and marks, as solid lines with marks, or as marks.
    """

    name: str
    group: str
    index: int
    look: Look = "line"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: Its name in the page, unique there.
        title: Its heading.
        text: How its figures are read, in a sentence or two.
        figures: Its figures.
        switches: What they depend on.
        tables: Its tables.
        notes: What is to be known of the data: gaps, what was left out.
        keys: Names of what all its figures show, in place of a legend in each; traces belong to one by `legendgroup`.
    """

    name: str
    title: str
    text: str
    figures: Sequence[Figure] = ()
    switches: Sequence[Switch] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    keys: Sequence[Key] = ()
