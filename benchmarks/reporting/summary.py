"""Tables and targets in plain text, shared by all outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Any

from benchmarks.measuring.failure import failed

NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row.

    Attributes:
        title: Title.
        columns: Headings.
        rows: Texts of the cells.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Target:
    """A target, and whether the measurement meets it.

    Attributes:
        wanted: The target in words.
        measured: The measurement in words.
        met: Whether the target is met; None if it could not be judged.
    """

    wanted: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """Return "yes", "no" or "not judged"."""
        return NOT_JUDGED if self.met is None else yes_or_no(self.met)


@dataclass(frozen=True)
class Summary:
    """Tables and targets of a part."""

    tables: list[Table]
    targets: list[Target] = field(default_factory=list)


def yes_or_no(met: bool) -> str:
    """Return "yes" if a target is met, otherwise "no"."""
    return "yes" if met else "no"


def seconds_text(measurement: dict[str, Any] | None) -> str:
    """Return a time, or the reason of a failure; a note says if the step was not finite, or ran only once."""
    if measurement is None:
        return ""
    if failed(measurement):
        return str(measurement["failure"])
    notes = ["not finite"] if not measurement.get("finite", True) else []
    notes += ["1 run"] if measurement.get("runs") == 1 else []
    return ", ".join([duration(measurement["seconds"]), *notes])


def duration(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def size(number: float) -> str:
    """Return a number of bytes with its unit."""
    return f"{number / 1e9:.2f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"


def size_text(measurement: dict[str, Any] | None) -> str:
    """Return a peak memory, or the reason of a failure."""
    if measurement is None:
        return ""
    return str(measurement["failure"]) if failed(measurement) else size(measurement["bytes"])


def times(ratio: float | None) -> str:
    """Return the text of a ratio, empty if there is none."""
    return "" if ratio is None else f"{ratio:.3g}×"


def ratio_of(first: dict[str, Any] | None, second: dict[str, Any] | None, key: str = "seconds") -> float | None:
    """Return the ratio of two measurements, or None if one of them is missing."""
    if first is None or second is None or failed(first) or failed(second) or second[key] <= 0:
        return None
    return float(first[key] / second[key])


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return exp(sum(map(log, values)) / len(values))


def worst_target(wanted: str, found: dict[str, float | None], bound: float, at_least: bool, unit: str = "×") -> Target:
    """Return a target that each of several numbers must meet.

    Args:
        wanted: The target in words.
        found: Numbers by the name of what they measure; None if there is no measurement.
        bound: Bound on each number.
        at_least: The numbers must be at least the bound, rather than at most.
        unit: Unit of the numbers.
    """
    known = {name: value for name, value in found.items() if value is not None}
    if not known:
        return Target(wanted, "not measured", None)
    worst = (min if at_least else max)(known, key=known.__getitem__)
    met = known[worst] >= bound if at_least else known[worst] <= bound
    text = f"{known[worst]:.3g}{unit} ({worst})"
    if missing := [name for name in found if name not in known]:
        return Target(wanted, f"{text}; not measured: {', '.join(missing)}", None if met else False)
    return Target(wanted, text, met)
