"""Strategies on recorded curvature: no model, no data, milliseconds for a step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddn_core.api import Criterion, Damping, Directions
from ddn_core.config import Config
from ddn_core.errors import ArgumentError, ConfigError, StrategyError
from ddn_core.measures import DampedChoice
from ddn_core.plugins.registry import Registry
from ddn_core.plugins.resolve import as_criterion, as_damping
from ddn_core.tables import csv_text, html_table
from ddn_core.traces.halves import Split, expected_decrease, halves
from ddn_core.traces.trace import Trace, TraceGroup

RECORDED = "recorded"
"""Name of the strategies of the run itself, which are listed with the candidates."""

Candidate = Config | object
"""A config; a damping; a pair of criterion and damping; or a list of such pairs, one for each recorded group."""


@dataclass(frozen=True, eq=False)
class Replayed:
    """Result of a candidate in one group at one recorded step.

    Attributes:
        name: Name of the candidate.
        step: Number of the step.
        group: Number of the group.
        choice: The directions that the candidate keeps, and their dampings.
        expected_decrease: Expected decrease of the loss on held-out halves of the samples, loss. NaN if there are too
            few samples, or if the strategies of the run cannot be loaded again.
        expected_spread: Standard deviation of the expected decrease over the splits, loss.
        seconds: Seconds that criterion and damping took together.
    """

    name: str
    step: int
    group: int
    choice: DampedChoice
    expected_decrease: float
    expected_spread: float
    seconds: float

    def to_dict(self) -> dict[str, str | int | float]:
        """Return the figures as plain data, with the range of the finite dampings, or NaN if there are none."""
        finite = self.choice.deltas[self.choice.deltas.isfinite()].double()
        low, middle, high = (
            (float(finite.min()), float(finite.median()), float(finite.max())) if len(finite) else (float("nan"),) * 3
        )
        return {
            "candidate": self.name,
            "step": self.step,
            "group": self.group,
            "directions": len(self.choice.every),
            "kept": len(self.choice.kept),
            "damping_min": low,
            "damping_median": middle,
            "damping_max": high,
            "step_norm": self.choice.step_norm,
            "predicted_decrease": self.choice.predicted_decrease,
            "expected_decrease": self.expected_decrease,
            "expected_spread": self.expected_spread,
            "milliseconds": 1e3 * self.seconds,
        }


@dataclass(frozen=True, eq=False)
class Replay:
    """Results of candidates on recorded curvature.

    Attributes:
        trace: The recorded curvature.
        names: Names of the candidates; the first is the run itself.
        results: A result for each recorded step, group and candidate, in this order.
    """

    trace: Trace
    names: tuple[str, ...]
    results: tuple[Replayed, ...]

    def rows(self) -> list[dict[str, str | int | float]]:
        """Return the figures as plain data, one row for each result."""
        return [result.to_dict() for result in self.results]

    def at(self, step: int, group: int) -> list[Replayed]:
        """Return the results at a step in a group, one for each candidate."""
        return [result for result in self.results if (result.step, result.group) == (step, group)]

    def write_csv(self, path: Path | str) -> None:
        """Write the figures as a table, one row for each result."""
        Path(path).write_text(csv_text(self.rows()), encoding="utf-8")

    def _repr_html_(self) -> str:
        """Return pictures of dampings and decreases, and a table of all results, for a notebook."""
        from ddn_core.plots import candidate_dampings, candidate_decreases
        from ddn_core.plots.notebook import picture

        last = self.results[-1]
        panels = [
            lambda ax: candidate_dampings(self, last.step, last.group, ax),
            lambda ax: candidate_decreases(self, last.group, ax),
        ]
        return picture(panels, "dampings by eigenvalue, and decreases by step") + html_table(self.rows())


def replay(
    trace: Trace | Path | str,
    candidates: Mapping[str, Candidate],
    splits: int = 4,
    seed: int = 0,
    registry: Registry | None = None,
) -> Replay:
    """Apply strategies to every recorded step.

    Only criterion, damping and `lr` are compared; momentum, clips and the like are not applied. Strategies that adapt
    stay as they are before their first step, because no outcome is reported to them.

    Example:
        >>> from ddn_core.testing import digits_trace
        >>> from ddn_core.traces import replay
        >>> replay(digits_trace(), {"weak": {"kind": "constant", "value": 1e-3}, "floor": SpectralFloor()})

    Args:
        trace: The trace, or its folder.
        candidates: The candidates by name. Each is a config, whose number of groups is one or that of the trace; a
            damping, which is used along all directions; a pair of criterion and damping; or a list of such pairs.
            Strategies are objects, tables, or functions with ViViT's signatures.
        splits: Number of random splits into halves for the expected decrease; 0 for no expected decrease.
        seed: Seed of the splits.
        registry: The plugins from which the strategies that the trace names are loaded; by default the installed ones.

    Raises:
        ArgumentError: The trace cannot be read, or the groups of a candidate do not fit it.
        ConfigError: An object is not a strategy, or the table of a strategy is wrong.
        StrategyError: A strategy raised, or returned an invalid result.
    """
    trace = trace if isinstance(trace, Trace) else Trace.read(trace)
    if RECORDED in candidates:
        raise ArgumentError(f"{RECORDED!r} is the name of the run itself. Give the candidate another name.")
    groups = sorted({entry.group for step in trace for entry in step.entry.groups})
    chosen = {name: _strategies(name, candidate, groups) for name, candidate in candidates.items()}
    results = []
    for step in trace:
        for group in step.groups:
            number = group.entry.group
            parts = halves(group.directions, splits, seed, group.entry.weight_decay)
            results.append(_recorded(step.entry.step, group, parts, registry))
            for name, strategies in chosen.items():
                results.append(_replayed(name, strategies[number], step.entry.step, group, parts))
    return Replay(trace, (RECORDED, *chosen), tuple(results))


@dataclass(frozen=True, eq=False)
class _Strategies:
    """New criterion and damping for a group."""

    criterion: Criterion
    damping: Damping
    lr: float | None

    def __call__(self, directions: Directions) -> tuple[Tensor, Tensor]:
        none = directions.evals.new_zeros(0)
        kept = self.criterion(directions) if len(directions) else none.long()
        return kept, self.damping(directions.select(kept)) if len(kept) else none


@torch.no_grad()
def _recorded(step: int, group: TraceGroup, parts: Sequence[Split], registry: Registry | None) -> Replayed:
    """Return the result of the run, with the expected decrease of its strategies before their first step."""
    entry = group.entry
    expected = spread = float("nan")
    try:
        criterion = as_criterion(entry.criterion, RECORDED, registry=registry)
        fresh = _Strategies(criterion, as_damping(entry.damping, RECORDED, registry), entry.lr)
        expected, spread = expected_decrease(parts, fresh, entry.lr)
    except (ConfigError, StrategyError):
        pass  # the strategies are functions, or of a plugin that is not installed or may not be loaded
    return Replayed(RECORDED, step, entry.group, group.choice, expected, spread, 0.0)


@torch.no_grad()
def _replayed(name: str, strategies: _Strategies, step: int, group: TraceGroup, parts: Sequence[Split]) -> Replayed:
    number = group.entry.group
    lr = group.entry.lr if strategies.lr is None else strategies.lr
    begun = time.perf_counter()
    try:
        kept, deltas = strategies(group.directions)
        seconds = time.perf_counter() - begun
        expected, spread = expected_decrease(parts, strategies, lr)
    except StrategyError as error:
        raise StrategyError(f"{name}, recorded step {step}, group {number}: {error}") from error
    choice = DampedChoice(group.directions, kept, deltas, lr)
    return Replayed(name, step, number, choice, expected, spread, seconds)


def _strategies(name: str, candidate: Candidate, groups: Sequence[int]) -> dict[int, _Strategies]:
    """Return the strategies of each recorded group."""
    made: list[tuple[object, object, float | None]]
    if isinstance(candidate, Config):
        if candidate.optimizer is not None:
            raise ArgumentError(
                f"{name} is a config of the torch optimizer {candidate.optimizer.kind!r}, which has no strategies to "
                "replay."
            )
        made = [(group.criterion, group.damping, group.lr) for group in candidate.groups]
    elif isinstance(candidate, list):
        made = [(*_pair(name, item), None) for item in candidate]
    else:
        made = [(*_pair(name, candidate), None)]
    if len(made) == 1:
        made = made * len(groups)
    if len(made) != len(groups):
        raise ArgumentError(
            f"{name} has {len(made)} groups, and the trace has {len(groups)}. Give one group for all of them, or as "
            "many groups as the trace has."
        )
    found = {}
    for number, (criterion, damping, lr) in zip(groups, made, strict=True):
        where = f"{name}, group {number}"
        found[number] = _Strategies(as_criterion(criterion, where, warn=False), as_damping(damping, where), lr)
    return found


def _pair(name: str, given: object) -> tuple[object, object]:
    """Return the criterion and the damping of a candidate for one group."""
    if not isinstance(given, tuple):
        return {"kind": "all"}, given
    if len(given) != 2:
        raise ArgumentError(f"{name}: {given!r} is not a pair of criterion and damping.")
    return given
