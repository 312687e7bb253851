"""Divergence of a training: its losses are not finite, or have grown past a multiple of the first ones."""

from __future__ import annotations

import math
import statistics
import warnings
from dataclasses import dataclass, field

from ddn_core.errors import DivergenceWarning

FACTOR = 10.0
"""Multiple of the first losses past which a training has diverged, by default."""
WINDOW = 5
"""Number of losses that are judged together, first ones and last ones, so that no single batch decides."""
MAJORITY = WINDOW // 2 + 1

_MOST_OVER_FIRST = 100.0  # good runs of Adam with a high lr come back from such an increase in their first steps
_ROUNDING = 2.0**-46
"""Loss that rounding can make: the square of the rounding error of an output of size 1 in float32."""


@dataclass
class DivergenceWatch:
    """The losses that tell whether a training diverges.

    The reference is the median of the first five finite losses, but at most a hundred times the first of them. A
    training has diverged as long as three or more of its last five losses are not finite, or above `factor` times the
    reference. Losses may also be negative or near zero: the limit is the reference plus `factor - 1` times its scale,
    and the scale is the largest of the size of the reference, the decrease below the reference up to now, and rounding.

    Attributes:
        factor: The multiple.
        first: The first finite losses, up to five.
        last: The last losses, up to five.
        lowest: The lowest median of the last five losses up to now.
        count: Number of losses up to now.
        warned: Whether a warning has been given.
    """

    factor: float = FACTOR
    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    lowest: float = math.inf
    count: int = 0
    warned: bool = False

    def see(self, loss: float) -> None:
        """Note the loss of a step."""
        self.count += 1
        if len(self.first) < WINDOW and math.isfinite(loss):
            self.first.append(loss)
        self.last = [*self.last, loss][-WINDOW:]
        if len(self.last) >= MAJORITY:
            sizes = [math.inf if math.isnan(one) else one for one in self.last]
            self.lowest = min(self.lowest, sorted(sizes)[MAJORITY - 1])

    @property
    def limit(self) -> float:
        """Loss above which the training diverges; infinity before the first finite loss."""
        if not self.first:
            return math.inf
        begun = self.first[0]
        highest = begun + (_MOST_OVER_FIRST - 1) * max(abs(begun), _ROUNDING)
        return self._multiple_of(min(statistics.median_low(self.first), highest))

    @property
    def limit_of_mean(self) -> float:
        """Mean loss above which a training that has come to its end has diverged.

        It is `factor` times the first loss, but at least the lowest of the other first losses: the first may be low by
        chance.
        """
        if not self.first:
            return math.inf
        return max(self._multiple_of(self.first[0]), min(self.first[1:], default=-math.inf))

    @property
    def diverged_at(self) -> int | None:
        """Number, from 0, of the first of the last losses that are too large; `None` without divergence."""
        high = self.high_steps
        return high[0] if len(high) >= MAJORITY else None

    @property
    def high_steps(self) -> list[int]:
        """Numbers, from 0, of those of the last losses that are too large."""
        limit, begin = self.limit, self.count - len(self.last)
        return [begin + index for index, loss in enumerate(self.last) if is_above(loss, limit)]

    @property
    def growth(self) -> str:
        """The increase of the loss in words, for a training that has diverged."""
        high = statistics.median_high(loss if math.isfinite(loss) else math.inf for loss in self.last)
        if not math.isfinite(high):
            return "the loss is not finite"
        return f"the loss is {high:.3g}, and was {self.first[0]:.3g} at first"

    def warn(self, loss: float) -> None:
        """Note the loss of a step, and warn once if the training has diverged."""
        if self.warned:
            return
        self.see(loss)
        step = self.diverged_at
        if step is not None:
            self.warned = True
            message = (
                f"The training diverges from step {step} on: {self.growth}. Try a larger damping, a smaller `lr`, a "
                "`max_step_norm`, or `step={'on_increase': 'shorten'}` with `step(closure)`."
            )
            warnings.warn(message, DivergenceWarning, stacklevel=5)  # the caller of `step`, which torch wraps

    def _multiple_of(self, reference: float) -> float:
        scale = max(abs(reference), reference - self.lowest, _ROUNDING)
        return reference + (self.factor - 1) * scale


def is_above(loss: float, limit: float) -> bool:
    """Return whether a loss is not finite, or above a limit."""
    return not math.isfinite(loss) or loss > limit
