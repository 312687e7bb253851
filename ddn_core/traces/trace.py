"""Reading a trace: the directions of each group, as strategies received them, at some steps of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ddn_core.api import Context, Directions, GivenNorms
from ddn_core.errors import ArgumentError
from ddn_core.measures import DampedChoice, signal_to_noise
from ddn_core.runs.record import TRACE
from ddn_core.tables import html_table
from ddn_core.traces.index import GroupEntry, Index, StepEntry
from ddn_core.traces.tensors import load_tensors

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class TraceGroup:
    """A group in a recorded step.

    Attributes:
        entry: Entry of the group in the index.
        directions: The directions that the criterion received, with gammas and lambdas, but without eigenvectors in
            parameter space.
        kept: Indices of the recorded directions that the criterion kept.
        deltas: Dampings of the kept directions, loss/param².
    """

    entry: GroupEntry
    directions: Directions
    kept: Tensor
    deltas: Tensor

    @property
    def choice(self) -> DampedChoice:
        """The directions that the run chose, with their dampings."""
        return DampedChoice(self.directions, self.kept, self.deltas, self.entry.lr)


@dataclass(frozen=True, eq=False)
class TraceStep:
    """A recorded step.

    Attributes:
        folder: Folder of the trace.
        entry: Entry of the step in the index: number, epoch, loss before and after.
    """

    folder: Path
    entry: StepEntry

    @cached_property
    def groups(self) -> tuple[TraceGroup, ...]:
        """The groups, which are read from the file at the first access.

        Raises:
            ArgumentError: The file is missing or damaged.
        """
        path = self.folder / self.entry.file
        tensors = load_tensors(path)
        for entry in self.entry.groups:
            if mistake := _mistake(entry, _own(entry, tensors)):
                raise ArgumentError(f"{path} does not match the index of the trace: group {entry.group}: {mistake}.")
        return tuple(_group(entry, _own(entry, tensors), self.entry) for entry in self.entry.groups)


@dataclass(frozen=True, eq=False)
class Trace:
    """Recorded curvature of a run.

    Example:
        >>> trace = Trace.read("runs/digits/trace")
        >>> directions = trace.steps[0].groups[0].directions

    Attributes:
        path: Folder of the trace.
        index: The index.
        steps: The recorded steps, in order.
    """

    path: Path
    index: Index
    steps: tuple[TraceStep, ...]

    @classmethod
    def read(cls, path: Path | str) -> Trace:
        """Return the trace in a folder or in a run folder, without reading the tensors yet.

        Raises:
            ArgumentError: There is no trace, the trace holds no step, or its index cannot be read.
        """
        folder = Path(path)
        if (folder / TRACE).is_dir():
            folder = folder / TRACE
        index = Index.read(folder)
        if not index.steps:
            raise ArgumentError(
                f"The trace in {folder} holds no step: the run ended before the first, or no step fitted."
            )
        return cls(folder, index, tuple(TraceStep(folder, entry) for entry in index.steps))

    def __len__(self) -> int:
        """Return the number of recorded steps."""
        return len(self.steps)

    def __iter__(self) -> Iterator[TraceStep]:
        """Iterate over the recorded steps."""
        return iter(self.steps)

    def __repr__(self) -> str:
        """Return the path and the size of the trace, on one line."""
        numbers = [step.entry.step for step in self.steps]
        groups = max(len(step.entry.groups) for step in self.steps)
        return (
            f"Trace({str(self.path)!r}: {len(self)} steps from {numbers[0]} to {numbers[-1]}, groups: {groups}, "
            f"{self.index.bytes / 1e6:.1f} MB)"
        )

    @property
    def spectra(self) -> dict[int, dict[int, Tensor]]:
        """By step, the eigenvalues of each recorded group by its number, loss/param²."""
        return {step.entry.step: {own.entry.group: own.directions.all_evals for own in step.groups} for step in self}

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """Return the figures as plain data, one row for each step and group."""
        found: list[dict[str, str | int | float | None]] = []
        for step in self:
            for group in step.groups:
                ratios, evals = signal_to_noise(group.directions), group.directions.all_evals
                found.append(
                    {
                        "step": step.entry.step,
                        "group": group.entry.group,
                        "loss": step.entry.loss,
                        "loss_after": step.entry.loss_after,
                        "directions": group.entry.found,
                        "recorded": len(group.directions),
                        "kept": len(group.kept),
                        "largest_eigenvalue": float(evals.max()) if len(evals) else None,
                        "above_noise": int((ratios > 1).sum()),
                        "gradient_norm": group.entry.gradient_norm,
                        "step_norm": group.choice.step_norm,
                        "predicted_decrease": group.choice.predicted_decrease,
                    }
                )
        return found

    def _repr_html_(self) -> str:
        """Return pictures of spectrum and signal-to-noise, and a table of all steps, for a notebook."""
        from ddn_core.plots import noise, spectrum_over_time
        from ddn_core.plots.notebook import picture

        last = self.steps[-1].groups[0]
        panels = [lambda ax: spectrum_over_time(self, last.entry.group, ax), lambda ax: noise(last, ax)]
        return picture(panels, "eigenvalues over time, and signal-to-noise at the last step") + html_table(self.rows())


LARGEST_ENTRY = 1.1
"""Size that no entry of an eigenvector reaches, whatever the rounding."""

_AXES = {
    **{"evals": "K", "evecs": "RK", "gammas": "NK", "lambdas": "MK", "loss_gammas": "K", "loss_lambdas": "K"},
    **{"all_evals": "A", "kept": "k", "deltas": "k"},
}
"""Axes of each tensor of a group: directions K, columns R, samples N and M, all eigenvalues A, kept directions k."""


def _own(entry: GroupEntry, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a group by name."""
    prefix = f"{entry.group}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _mistake(entry: GroupEntry, own: Mapping[str, Tensor]) -> str | None:
    """Return the first mistake in the tensors of a group, in words; `None` if there is none."""
    if missing := [name for name in _AXES if name not in own]:
        return f"{missing[0]} is missing"
    sizes: dict[str, int] = {}
    for name, axes in _AXES.items():
        tensor = own[name]
        if tensor.dtype != own["evals"].dtype if name != "kept" else str(tensor.dtype) != "torch.int64":
            return f"{name} has the type {tensor.dtype}"
        expected = [sizes.setdefault(axis, size) for axis, size in zip(axes, tensor.shape, strict=False)]
        if tensor.dim() != len(axes) or list(tensor.shape) != expected:
            return f"{name} has the shape {list(tensor.shape)}"
        if bool(tensor.isnan().any()) or (name != "deltas" and bool(tensor.isinf().any())):  # a damping may be infinite
            return f"{name} has values that are not finite"
    if bool((own["evecs"].abs() > LARGEST_ENTRY).any()):
        return "evecs has entries that no vector of norm 1 has"
    if not own["evals"].is_floating_point():
        return f"evals has the type {own['evals'].dtype}"
    if sizes["K"] and not (sizes["N"] and sizes["M"] == entry.samples and sizes["R"] % entry.samples == 0):
        found = f"{sizes['R']} columns, {sizes['N']} gradients and {sizes['M']} curvatures"
        return f"{found} do not fit {entry.samples} samples"
    kept = own["kept"]
    if len(set(kept.tolist())) < len(kept) or bool(((kept < 0) | (kept >= sizes["K"])).any()):
        return f"kept has other numbers than those of {sizes['K']} directions"
    return None


def _group(entry: GroupEntry, own: Mapping[str, Tensor], step: StepEntry) -> TraceGroup:
    sample_gradients = entry.sample_gradients
    if sample_gradients is None:
        scale = len(own["gammas"]) if entry.reduction == "sum" else 1
        sample_gradients = float((scale * own["gammas"].double()).square().sum(1).mean())
    context = Context(
        step=step.step,
        group=entry.group,
        lr=entry.lr,
        last=entry.last,
        outputs=entry.outputs,
        samples=entry.samples,
        parameters=entry.parameters,
        loss=step.loss,
        norms=GivenNorms(
            entry.gradient_norm, entry.parameter_norm, entry.mean_curvature, sample_gradients, entry.displacement
        ),
    )
    directions = Directions.from_tensors(
        own["evals"],
        own["evecs"],
        own["gammas"],
        own["lambdas"],
        entry.reduction,
        context,
        all_evals=own["all_evals"],
        loss_gammas=own["loss_gammas"],
        loss_lambdas=own["loss_lambdas"],
    )
    return TraceGroup(entry, directions, own["kept"], own["deltas"])
