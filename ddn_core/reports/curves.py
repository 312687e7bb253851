"""Numbers made small enough to embed: rounded, thinned so that spikes stay, seeds joined to a median with a band."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

MOST_POINTS = 2000
"""Points of a line, at most."""
MOST_RANKS = 1200
"""Directions in a figure, at most."""
MOST_LETTERS = 48
"""Length of a name in a legend, at most."""


def rounded(value: float | None, digits: int = 5) -> float | None:
    """Return a number with some digits; `None` for what is not finite, which is a gap in a line."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def all_rounded(values: Iterable[float | None], digits: int = 5) -> list[float | None]:
    """Return numbers with some digits, gaps where they are not finite."""
    return [rounded(value, digits) for value in values]


def thinned(values: Sequence[float | None], most: int = MOST_POINTS) -> list[int]:
    """Return the positions of at most about `most` values: the first, least, greatest and last gap of each bucket."""
    if len(values) <= most:
        return list(range(len(values)))
    buckets = max(most // 4, 1)
    kept = {0, len(values) - 1}
    for bucket in range(buckets):
        start, stop = bucket * len(values) // buckets, (bucket + 1) * len(values) // buckets
        finite = [(value, index) for index in range(start, stop) if _is_number(value := values[index])]
        kept.add(start)
        kept.update(
            index for index in range(stop - 1, start, -1) if not _is_number(values[index]) and _gap(kept, index)
        )
        if finite:
            kept |= {min(finite)[1], max(finite)[1]}
    return sorted(kept)


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _gap(kept: set[int], index: int) -> bool:
    """Return whether a gap is not shown already by the position after it."""
    return index + 1 not in kept


def ranks_shown(count: int, most: int = MOST_RANKS) -> list[int]:
    """Return which of `count` ranks are shown: all, or the first half of them and evenly spaced ones of the rest."""
    if count <= most:
        return list(range(count))
    dense = most // 2
    rest = most - dense
    return [*range(dense), *sorted({dense + (count - 1 - dense) * index // (rest - 1) for index in range(rest)})]


def spread_evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` positions, the first and the last among them."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


@dataclass(frozen=True)
class Curve:
    """Values over some axis; of several seeds with a band between the least and the greatest of them."""

    x: list[float | None]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None


def joined(lines: Sequence[tuple[Sequence[float | None], Sequence[float | None]]]) -> Curve:
    """Return one line as it is, and several as their median, place by place, with a band; thinned and rounded."""
    if len(lines) == 1:
        x, y = lines[0]
        kept = thinned(y)
        return Curve([rounded(x[index], 7) for index in kept], [rounded(y[index]) for index in kept])
    length = max((len(y) for _, y in lines), default=0)
    xs, middles, lows, highs = [], [], [], []
    for place in range(length):
        here = [(x[place], y[place]) for x, y in lines if place < len(y)]
        values = [value for _, value in here if value is not None and math.isfinite(value)]
        places = [at for at, _ in here if at is not None]
        complete = len(values) == len(lines)  # where a seed has no value, the median of the others would flatter
        xs.append(median(places) if places else None)
        middles.append(median(values) if complete else None)
        lows.append(min(values) if complete else None)
        highs.append(max(values) if complete else None)
    kept = sorted({*thinned(middles), *thinned(highs)})
    return Curve(
        [rounded(xs[index], 7) for index in kept],
        *([rounded(part[index]) for index in kept] for part in (middles, lows, highs)),
    )


def plot_text(text: str) -> str:
    """Return text as Plotly shows it letter by letter, cut where it is long: it would read tags otherwise."""
    return escape(text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…", quote=False)


def figure_text(value: float | None) -> str:
    """Return a number as a person reads it."""
    if value is None:
        return "–"
    return f"{value:.4g}" if math.isfinite(value) else "not finite"
