"""Parts of a report as plain data: sections with figures, switches and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Frame = Mapping[str, Any]
"""One state of a figure: `data` and `layout` for Plotly, and a `note` below the figure.

A colour is a name that the page looks up in its theme: `$c0` to `$c7` for series, `$q0.3` on the scale for ordered
values, `$accent`, `$muted`, `$line`; `$c0/0.2` is translucent.
"""


@dataclass(frozen=True)
class Switch:
    """A choice on which figures depend. Switches of the same name, in any section, change together.

    Attributes:
        name: Name of the switch in the page.
        label: Label in front of the switch.
        options: The options; a list of lists if they depend on the choice of another switch.
        kind: Form of the switch: buttons, a drop-down list, or a slider.
        of: Name of the switch on which the options depend, if any.
        chosen: Number of the initial option.
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
        name: Unique name of the figure in the page.
        title: Title of the figure, with the unit.
        frames: States of the figure. A key has the numbers of the chosen options with `|` between them, such as
            `"0|3"`; without switches, the key is `""`.
        switches: Names of the switches on which the figure depends.
        wide: Whether the figure takes the whole width.
        about: Description for screen readers; by default, the title.
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
        caption: Caption of the table.
        columns: Heading of each column; the first column names the rows.
        rows: The cells by row.
        marked: Numbers of the highlighted rows.
        folded: Whether the table is folded until the reader opens it.
        numbers: Whether all columns but the first hold numbers, which are aligned at the right.
        tall: Whether the table scrolls within the page.
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
        name: Name of the run or candidate.
        group: The `legendgroup` of the traces.
        index: Number of the series, which gives colour, dash and marker.
        look: Style of the entry: dashed lines with marks, solid lines with marks, or marks alone.
    """

    name: str
    group: str
    index: int
    look: Look = "line"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: Unique name of the section in the page.
        title: Heading of the section.
        text: Explanation of the figures, in a sentence or two.
        figures: The figures.
        switches: The switches on which the figures depend.
        tables: The tables.
        notes: Remarks on the data, such as gaps and omissions.
        keys: Common legend of all figures; `legendgroup` assigns a trace to its entry.
    """

    name: str
    title: str
    text: str
    figures: Sequence[Figure] = ()
    switches: Sequence[Switch] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    keys: Sequence[Key] = ()
