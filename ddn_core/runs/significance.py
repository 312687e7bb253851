"""Conclusions about chance from few paired runs: the sign test, and Holm's adjustment for several tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05
"""Level below which a difference is called significant."""


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p of a sign test: the probability that fair coins split at least as unevenly.

    Args:
        wins: Number of pairs in which the first is better.
        losses: Number of pairs in which the second is better. Pairs of equal values count for neither.
    """
    pairs, fewer = wins + losses, min(wins, losses)
    tail: int = sum(math.comb(pairs, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**pairs))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number after Holm (1979), in the given order."""
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True)
class Pairing:
    """The best config against another, seed by seed.

    Attributes:
        best: Name of the best config.
        other: Name of the other config.
        better: Number of seeds for which the best config is better.
        worse: Number of seeds for which it is worse.
        equal: Number of seeds for which both have the same value.
        left_out: Number of seeds for which one of them has no finite value.
        p: Two-sided p of the sign test.
        adjusted: The same p after Holm's adjustment for all pairings.
    """

    best: str
    other: str
    better: int
    worse: int
    equal: int
    left_out: int
    p: float
    adjusted: float

    @property
    def pairs(self) -> int:
        """Number of seeds for which both have a value."""
        return self.better + self.worse + self.equal


def pairings(
    best: str, values: Mapping[str, Mapping[int, float]], seeds: Sequence[int], maximize: bool
) -> list[Pairing]:
    """Return the best config against each of the others, with p values adjusted for their number.

    Args:
        best: Name of the best config.
        values: The finite values, by name of config and seed.
        seeds: All seeds.
        maximize: Whether larger values are better.
    """
    sign = -1 if maximize else 1
    counts: dict[str, tuple[int, int, int]] = {}
    for other in values:
        if other != best:
            both = [seed for seed in seeds if seed in values[best] and seed in values[other]]
            gaps = [sign * (values[other][seed] - values[best][seed]) for seed in both]
            counts[other] = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps), sum(gap == 0 for gap in gaps)
    tested = [sign_test(better, worse) for better, worse, _ in counts.values()]
    return [
        Pairing(best, other, *three, left_out=len(seeds) - sum(three), p=p, adjusted=adjusted)
        for (other, three), p, adjusted in zip(counts.items(), tested, holm(tested), strict=True)
    ]


def statement(found: Sequence[Pairing], maximize: bool) -> str:
    """Return the conclusion that pairings allow, in words.

    Args:
        found: The best config against each of the others.
        maximize: Whether larger values are better.
    """
    pairs = max((one.pairs for one in found), default=0)
    if not pairs:
        return "No two configs have a value for the same seed: nothing can be said about chance."
    lines = [_line(one, "lower" if maximize else "higher") for one in found]
    if pairs == 1:
        return " ".join([*lines, "One seed says nothing about chance."])
    return " ".join([*lines, *_limits(found, pairs)])


def _line(one: Pairing, direction: str) -> str:
    if not one.pairs:
        return f"{one.other} and {one.best} have no seed in common with a value of both."
    notes = [f"{one.equal} equal"] if one.equal else []
    if one.pairs > 1:
        adjusted = "" if one.adjusted == one.p else f", Holm-adjusted {one.adjusted:.3g}"
        notes.append(f"sign test, p = {one.p:.3g}{adjusted}")
    notes += [f"{one.left_out} left out: no value"] if one.left_out else []
    details = f" ({', '.join(notes)})" if notes else ""
    return f"{one.other} is {direction} than {one.best} in {one.better} of {_seeds(one.pairs)}{details}."


def _limits(found: Sequence[Pairing], pairs: int) -> list[str]:
    """Return the limits of any conclusion from this number of seeds."""
    smallest = sign_test(pairs, 0)
    reach = f"With {_seeds(pairs)} the smallest p this test can give is {smallest:.3g}"
    if smallest > LEVEL:
        return [f"{reach}: no difference can be called significant at 5 % from these runs alone."]
    if len(found) * smallest > LEVEL:
        return [
            f"{reach}, and {len(found) * smallest:.3g} after the adjustment for {len(found)} comparisons: "
            "no difference can be called significant at 5 % from these runs alone."
        ]
    distinct = [one.other for one in found if one.adjusted <= LEVEL and one.better > one.worse]
    lines = [f"Significant at 5 %: {', '.join(distinct)}." if distinct else "No difference is significant at 5 %."]
    if len(found) > 1:
        lines.append("The best was chosen by the same runs, so that the p are rather too small than too large.")
    return lines


def _seeds(number: int) -> str:
    return f"{number} seed" if number == 1 else f"{number} seeds"
