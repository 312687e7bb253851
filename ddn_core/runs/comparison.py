"""Several configs with several seeds each, side by side: their ranking, their distance, and the role of chance."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ddn_core.runs.events import EvaluationEvent
from ddn_core.runs.record import RunRecord
from ddn_core.runs.scores import Score, Target, distinct, is_loss, values_of
from ddn_core.runs.significance import Pairing, pairings, statement
from ddn_core.tables import html_table


@dataclass(frozen=True)
class Spread:
    """Values of several seeds.

    Attributes:
        values: The values; infinity for a target that was not reached.
        seeds: Number of seeds, including those without a value.
    """

    values: tuple[float, ...]
    seeds: int

    @property
    def median(self) -> float | None:
        """The median; `None` if there is no value."""
        return statistics.median(self.values) if self.values else None

    @property
    def low(self) -> float | None:
        """The smallest value; `None` if there is none."""
        return min(self.values, default=None)

    @property
    def high(self) -> float | None:
        """The largest value; `None` if there is none."""
        return max(self.values, default=None)

    def sort_key(
        self, maximize: bool, diverged: int = 0, allow_diverged: bool = False
    ) -> tuple[bool, bool, bool, float]:
        """Return a key that sorts the best first; those that lack a seed come later, those without values last.

        Args:
            maximize: Whether larger values are better.
            diverged: Number of seeds that diverged; with any, the key comes after those of all without.
            allow_diverged: Whether seeds that diverged are left out instead.
        """
        middle = self.median
        sign = -1 if maximize else 1
        lacks = len(self.values) + diverged < self.seeds
        return middle is None, diverged > 0 and not allow_diverged, lacks, 0.0 if middle is None else sign * middle

    def text(self, digits: int = 3) -> str:
        """Return median and range, `0.2 [0.1..0.3]`."""
        return "-" if not self.values else f"{self.median_text(digits)} {self.range_text(digits)}".rstrip()

    def median_text(self, digits: int = 3) -> str:
        """Return the median."""
        return "-" if self.median is None else number(self.median, digits)

    def range_text(self, digits: int = 3) -> str:
        """Return the range, `[0.1..0.3]`; an empty text for a single value."""
        if self.low is None or self.high is None or len(self.values) < 2:
            return ""
        return f"[{number(self.low, digits)}..{number(self.high, digits)}]"

    def table(self) -> dict[str, Any]:
        """Return median and range as plain data, with `None` for a number that is not finite."""
        ends = {"median": self.median, "low": self.low, "high": self.high}
        plain = {name: value if value is not None and math.isfinite(value) else None for name, value in ends.items()}
        return {**plain, "values": sum(map(math.isfinite, self.values)), "seeds": self.seeds}


@dataclass(frozen=True)
class RankedConfig:
    """A config with its runs.

    Attributes:
        name: Name of the config.
        scores: The scores of its runs by seed; `None` if the run cannot be read.
    """

    name: str
    scores: Mapping[int, Score | None]

    @property
    def finished(self) -> int:
        """Number of runs that finished, and did not diverge."""
        return sum(score is not None and score.finished for score in self.scores.values())

    @property
    def diverged(self) -> dict[int, int]:
        """The step at which a run diverged, by seed."""
        steps = {seed: score.diverged_at for seed, score in self.scores.items() if score is not None}
        return {seed: step for seed, step in steps.items() if step is not None}

    @property
    def diverged_text(self) -> str:
        """The seeds that diverged, in words; an empty text if there is none."""
        return divergence_text(self.diverged, len(self.scores))

    def finals(self, metric: str) -> dict[int, float]:
        """Return the values after the last epoch by seed, for the runs that finished with a finite value."""
        found = {seed: score.final(metric) for seed, score in self.scores.items() if score is not None}
        return {seed: value for seed, value in found.items() if value is not None}

    def final(self, metric: str) -> Spread:
        """Return the values after the last epoch."""
        return Spread(tuple(self.finals(metric).values()), len(self.scores))

    def best(self, metric: str, maximize: bool | None = None) -> Spread:
        """Return the best value at the end of an epoch of each finished run; by default losses are minimized."""
        return self._spread(
            [values_of(event)[metric] for event in self._bests(metric, maximize)],
        )

    def best_epoch(self, metric: str, maximize: bool | None = None) -> Spread:
        """Return the number of the best epoch of each finished run."""
        return self._spread([event.epoch for event in self._bests(metric, maximize)])

    def cost(self, what: str) -> Spread:
        """Return `epoch`, `step`, `seconds` or `step_seconds` at the end of each finished run."""
        return self._spread([getattr(score.epochs[-1], what) for score in self._ended])

    def reached(self, target: Target) -> int:
        """Return the number of seeds that reached a target."""
        return sum(score is not None and score.reached(target) is not None for score in self.scores.values())

    def until(self, target: Target, what: str) -> Spread:
        """Return `epoch`, `step`, `seconds` or `step_seconds` at the time of a target, infinity if it was not reached.

        The median is infinite if at least half of the seeds did not reach the target.
        """
        events = [None if score is None else score.reached(target) for score in self.scores.values()]
        return self._spread([math.inf if event is None else getattr(event, what) for event in events])

    @property
    def _ended(self) -> list[Score]:
        return [score for score in self.scores.values() if score is not None and score.finished and score.epochs]

    def _bests(self, metric: str, maximize: bool | None) -> list[EvaluationEvent]:
        upwards = not is_loss(metric) if maximize is None else maximize
        found = [score.best(metric, upwards) for score in self._ended]
        return [event for event in found if event is not None]

    def _spread(self, values: Sequence[float]) -> Spread:
        return Spread(tuple(map(float, values)), len(self.scores))


@dataclass(frozen=True)
class Comparison:
    """Configs with their runs.

    Attributes:
        ranking: The configs, the best first, by the median of the metric after the last epoch. Configs that lack the
            metric for a seed come after those that have it for all, then configs with a seed that diverged, and last
            configs without any value.
        metric: The metric that ranks the configs.
        maximize: Whether larger values of the metric are better.
        seeds: All seeds.
        targets: The targets whose time is compared.
        allow_diverged: Whether a config is ranked by its other seeds if one of its seeds diverged.
    """

    ranking: tuple[RankedConfig, ...]
    metric: str
    maximize: bool
    seeds: tuple[int, ...]
    targets: tuple[Target, ...]
    allow_diverged: bool = False

    @classmethod
    def of(
        cls,
        runs: Mapping[str, Sequence[RunRecord]],
        targets: Sequence[Target] = (),
        *,
        metric: str = "train_loss",
        maximize: bool = False,
        seeds: Sequence[int] | None = None,
        allow_diverged: bool = False,
    ) -> Comparison:
        """Compare runs.

        Args:
            runs: The runs by the name of their config, one for each seed.
            targets: The targets whose time is compared.
            metric: The metric that ranks the configs: a loss or a test metric, after the last epoch.
            maximize: Whether larger values of the metric are better.
            seeds: The seeds that are expected; by default those of the runs.
            allow_diverged: Whether a config is ranked by its other seeds if one of its seeds diverged.
        """
        scores = {name: {score.seed: score for score in map(Score.of, records)} for name, records in runs.items()}
        return cls.of_scores(
            scores, targets, metric=metric, maximize=maximize, seeds=seeds, allow_diverged=allow_diverged
        )

    @classmethod
    def of_scores(
        cls,
        scores: Mapping[str, Mapping[int, Score]],
        targets: Sequence[Target] = (),
        *,
        metric: str = "train_loss",
        maximize: bool = False,
        seeds: Sequence[int] | None = None,
        allow_diverged: bool = False,
    ) -> Comparison:
        """Compare scores by config and seed; the other arguments are those of `of`."""
        if seeds is None:
            seeds = sorted({seed for found in scores.values() for seed in found})
        ranking = [RankedConfig(name, {seed: found.get(seed) for seed in seeds}) for name, found in scores.items()]
        ranking.sort(key=lambda one: one.final(metric).sort_key(maximize, len(one.diverged), allow_diverged))
        return cls(tuple(ranking), metric, maximize, tuple(seeds), tuple(targets), allow_diverged)

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics, first the one that ranks the configs."""
        names = distinct(x.metrics for one in self.ranking for x in one.scores.values() if x is not None)
        return sorted(names, key=lambda name: name != self.metric)

    def maximizes(self, metric: str) -> bool:
        """Return whether larger values of a metric are better."""
        return self.maximize if metric == self.metric else not is_loss(metric)

    @property
    def best(self) -> RankedConfig | None:
        """The first config, if it has the metric and, unless this is allowed, no seed that diverged."""
        usable = (one for one in self.ranking[:1] if self.allow_diverged or not one.diverged)
        return next((one for one in usable if one.finals(self.metric)), None)

    @cached_property
    def pairings(self) -> list[Pairing]:
        """The best config against each of the others, seed by seed."""
        if self.best is None:
            return []
        values = {one.name: one.finals(self.metric) for one in self.ranking}
        return pairings(self.best.name, values, self.seeds, self.maximize)

    @property
    def statement(self) -> str:
        """The conclusion about chance that the seeds allow, in words."""
        if self.best is None and any(one.diverged for one in self.ranking):
            return "No config is the best: every config that was measured has a seed that diverged."
        return statement(self.pairings, self.maximize)

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return heading and rows of the leaderboard as text."""
        heading = ["config", "finished", *self.metrics, "steps", "seconds"]
        heading += [f"steps to {target}" for target in self.targets]
        rows = []
        for one in self.ranking:
            finished = f"{one.finished} of {len(one.scores)}"
            row = [one.name, f"{finished}; {one.diverged_text}" if one.diverged else finished]
            row += [one.final(metric).text() for metric in self.metrics]
            row += [one.cost("step").text(6), one.cost("seconds").text()]
            rows.append([*row, *(one.until(target, "step").text(6) for target in self.targets)])
        return heading, rows

    def _repr_html_(self) -> str:
        """Return the leaderboard and the statement about chance, for a notebook."""
        heading, rows = self.rows()
        table = html_table([dict(zip(heading, row, strict=True)) for row in rows])
        return f"{table}<p>{html.escape(self.statement)}</p>"


def divergence_text(steps: Mapping[int, int], seeds: int) -> str:
    """Return the seeds that diverged in words, `seed 1 diverged at step 24`; an empty text if there is none.

    Args:
        steps: The step by seed.
        seeds: Number of seeds; if there is only one, it is not named.
    """
    return ", ".join(f"{f'seed {seed} ' if seeds > 1 else ''}diverged at step {step}" for seed, step in steps.items())


def number(value: float, digits: int = 3) -> str:
    """Return a number as text; infinity stands for a target that was not reached."""
    return "never" if math.isinf(value) else f"{value:.{digits}g}"
