"""Curves that are small enough to embed: rounded, thinned with their spikes, seeds summarized by median and band."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

Line = tuple[Sequence[float | None], Sequence[float | None]]
"""Places and values of a line."""

MOST_POINTS = 2000
"""Largest number of points of a line."""
MOST_RANKS = 1200
"""Largest number of directions in a figure."""
MOST_LETTERS = 48
"""Largest length of a name in a legend."""


def rounded(value: float | None, digits: int = 5) -> float | None:
    """Return a number with some digits, or `None`, which is a gap in a line, if it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def all_rounded(values: Iterable[float | None], digits: int = 5) -> list[float | None]:
    """Return numbers with some digits, gaps where they are not finite."""
    return [rounded(value, digits) for value in values]


def thinned(values: Sequence[float | None], most: int = MOST_POINTS) -> list[int]:
    """Return the positions of about `most` values: the first, least, greatest and last gap of each bucket."""
    if len(values) <= most:
        return list(range(len(values)))
    buckets = max(most // 4, 1)
    kept = {0, len(values) - 1}
    for bucket in range(buckets):
        start, stop = bucket * len(values) // buckets, (bucket + 1) * len(values) // buckets
        finite = [(value, index) for index in range(start, stop) if _is_number(value := values[index])]
        kept.add(start)
        kept.update(
            index for index in range(stop - 1, start, -1) if not _is_number(values[index]) and _begins_gap(kept, index)
        )
        if finite:
            kept |= {min(finite)[1], max(finite)[1]}
    return sorted(kept)


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _begins_gap(kept: set[int], index: int) -> bool:
    """Return whether the position after a gap is not kept yet, so that the gap must be kept."""
    return index + 1 not in kept


def ranks_shown(count: int, most: int = MOST_RANKS) -> list[int]:
    """Return at most `most` of `count` ranks: all of them, or many leading ranks and evenly spaced ones of the rest."""
    if count <= most:
        return list(range(count))
    dense = most // 2
    rest = most - dense
    return [*range(dense), *sorted({dense + (count - 1 - dense) * index // (rest - 1) for index in range(rest)})]


def spread_evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of `count` positions, with the first and the last."""
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})


@dataclass(frozen=True)
class Curve:
    """Values over an axis; for several seeds, with a band between the least and the greatest value."""

    x: list[float | None]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None


def summarized(lines: Sequence[Line]) -> Curve:
    """Return a single line as it is, or the median of several lines with a band, thinned and rounded."""
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
        complete = len(values) == len(lines)  # if a seed has no value, the median of the others would look too good
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
    """Return text with its tags escaped, because Plotly interprets them, and shortened if it is long."""
    return escape(text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…", quote=False)


def figure_text(value: float | None) -> str:
    """Return a number in short form."""
    if value is None:
        return "–"
    return f"{value:.4g}" if math.isfinite(value) else "not finite"
