"""Recorded steps of runs for a report: few enough to embed, with directions by rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddn_core.errors import ArgumentError
from ddn_core.reports.curves import spread_evenly
from ddn_core.reports.figures_runs import labels
from ddn_core.runs import RunRecord
from ddn_core.traces import DampedChoice, Trace, TraceGroup, TraceStep, signal_to_noise

MOST_STEPS = 12
"""Largest number of recorded steps of a run in a report; with many runs, fewer."""
_ALL_STEPS = 36  # of all runs together
_FEWEST = 3


@dataclass(frozen=True)
class Source:
    """A group of a run, with its recorded steps.

    Attributes:
        label: Name of the run, with the number of the group if there are several groups.
        group: Number of the group.
        steps: The recorded steps in the report.
    """

    label: str
    group: int
    steps: tuple[TraceStep, ...]

    def at(self, place: int) -> TraceGroup | None:
        """Return the group in a step, or `None` if the step did not record it."""
        return next((group for group in self.steps[place].groups if group.entry.group == self.group), None)


@dataclass(frozen=True)
class Recorded:
    """Recorded curvature of runs.

    Attributes:
        sources: Groups of runs.
        notes: Remarks on omitted steps and directions, and on traces that cannot be read.
    """

    sources: list[Source] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def recorded_steps(runs: Sequence[RunRecord]) -> Recorded:
    """Return the recorded curvature of runs, with a note for each trace that cannot be read."""
    found = Recorded()
    with_trace = [(label, run.trace) for label, run in zip(labels(runs), runs, strict=True) if run.trace is not None]
    most = max(_FEWEST, min(MOST_STEPS, _ALL_STEPS // max(len(with_trace), 1)))
    for label, folder in with_trace:
        assert folder is not None
        try:
            trace = Trace.read(folder)
            steps = [trace.steps[place] for place in spread_evenly(len(trace), most)]
            groups = sorted({group.entry.group for step in steps for group in step.groups})
        except ArgumentError as error:
            found.notes.append(f"{label}: {error}")
            continue
        if len(steps) < len(trace):
            found.notes.append(f"{label}: {len(steps)} of {len(trace)} recorded steps are shown, spread evenly.")
        if trace.index.left_out:
            found.notes.append(f"{label}: {len(trace.index.left_out)} steps did not fit into the trace.")
        cut = max(group.entry.found - len(group.directions) for step in steps for group in step.groups)
        if cut:
            found.notes.append(f"{label}: only leading directions are recorded; up to {cut} of the smallest are not.")
        for group in groups:
            name = f"{label}, group {group}" if len(groups) > 1 else label
            found.sources.append(Source(name, group, tuple(steps)))
    return found


@dataclass(frozen=True, eq=False)
class Ranked:
    """The directions of a group in a step, the largest eigenvalue first; index 0 has rank 1.

    Attributes:
        slopes: |γ̄_k|, `[K]`.
        curvatures: λ̄_k, `[K]`.
        noise: Signal-to-noise, `[K]`.
        kept: Mask of the directions that were kept, `[K]`.
        deltas: Dampings, `[K]`; NaN if a direction was not kept.
        shares: Shares in the squared norm of the step, `[K]`; zero if a direction was not kept.
        decreases: Contributions to the predicted decrease, `[K]`; zero if a direction was not kept.
    """

    slopes: Tensor
    curvatures: Tensor
    noise: Tensor
    kept: Tensor
    deltas: Tensor
    shares: Tensor
    decreases: Tensor

    @classmethod
    def of(cls, group: TraceGroup) -> Ranked:
        """Return the directions of a group by rank."""
        every = group.directions
        order = every.evals.argsort(descending=True)
        choice = DampedChoice(every, group.kept, group.deltas, group.entry.lr)
        count = len(every)
        kept = every.evals.new_zeros(count, dtype=torch.bool)
        kept[group.kept] = True
        wide = every.evals.double()
        deltas, shares, decreases = wide.new_full((count,), float("nan")), wide.new_zeros(count), wide.new_zeros(count)
        deltas[group.kept] = group.deltas.double()
        if len(group.kept):
            shares[group.kept] = choice.shares()
            decreases[group.kept] = choice.decreases()
        parts = (every.loss_gammas.double().abs(), every.loss_lambdas.double(), signal_to_noise(every))
        return cls(*(part[order] for part in (*parts, kept, deltas, shares, decreases)))
