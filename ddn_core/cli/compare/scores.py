"""What the trials that have ended came to, each read once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ddn_core.cli.compare.plan import Plan
from ddn_core.cli.trials.process import Result
from ddn_core.errors import ArgumentError
from ddn_core.runs.comparison import Comparison
from ddn_core.runs.record import RunRecord
from ddn_core.runs.scores import Score


class Scores:
    """The scores of a comparison's trials."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        """Take the folder of a comparison, and its plan."""
        self._folder = folder
        self._plan = plan
        self._read: dict[int, tuple[Result, Score | None]] = {}

    def comparison(self, results: Mapping[int, Result]) -> Comparison:
        """Return the comparison of what has ended."""
        found: dict[str, dict[int, Score]] = {entry.name: {} for entry in self._plan.entries}
        for task, (name, seed) in zip(self._plan.tasks(self._folder), self._plan.trials, strict=True):
            result = results.get(task.number)
            if result is not None and (score := self._score(task.number, task.run, result)) is not None:
                found[name][seed] = score
        return Comparison.of_scores(
            found,
            self._plan.wanted(),
            metric=self._plan.metric,
            maximize=self._plan.maximize,
            seeds=range(self._plan.seed, self._plan.seed + self._plan.seeds),
        )

    def _score(self, number: int, run: Path, result: Result) -> Score | None:
        known = self._read.get(number)
        if known is None or known[0] is not result:
            score = None
            with suppress(ArgumentError):  # it failed before its first step, or somebody removed it
                score = Score.of(RunRecord.read(run))
            known = self._read[number] = result, score
        return known[1]
