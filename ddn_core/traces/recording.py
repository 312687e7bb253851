"""Recording the curvature of a run, between the backward pass and the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddn_core.api import Directions
from ddn_core.config import RecordConfig
from ddn_core.errors import ArgumentError, NonFiniteError
from ddn_core.files import remove_partial_files, writing
from ddn_core.optim import DirectionalDampedNewton
from ddn_core.optim.parameters import is_fallback
from ddn_core.traces.index import INDEX, GroupEntry, Index, StepEntry
from ddn_core.traces.tensors import check_installed, save_tensors

STEP_SHARE = 8
"""A step takes at most this fraction, one eighth, of the size of a trace."""


class Recorder:
    """Writer of a trace. Recording does not change the steps of the optimizer.

    Example:
        >>> recorder = Recorder("trace")
        >>> for X, y in loader:
        ...     optimizer.zero_grad()
        ...     with optimizer.curvature():
        ...         loss = loss_function(model(X), y)
        ...         loss.backward()
        ...     recorder.record(optimizer, loss)
        ...     optimizer.step()
    """

    def __init__(self, folder: Path | str, settings: RecordConfig | Mapping[str, Any] | None = None) -> None:
        """Begin a trace in a new folder, or continue the trace in the folder.

        Args:
            folder: The folder.
            settings: The steps to record, and the size of the trace.

        Raises:
            ArgumentError: The folder holds other files or cannot be written, or safetensors is not installed.
        """
        check_installed()
        self.folder = Path(folder)
        self._settings = RecordConfig.model_validate(settings or {})
        if (self.folder / INDEX).exists():
            self.index = Index.read(self.folder)
            return
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(
                not path.name.startswith(".") for path in self.folder.iterdir()
            ):  # a killed process leaves partial files
                raise ArgumentError(f"The folder {self.folder} is not empty, and holds no trace. Name a new folder.")
        self.index = Index(megabytes=self._settings.megabytes)
        self.index.write(self.folder)

    def resume(self, step: int) -> None:
        """Remove a step and all later ones, because a resumed run will record them again.

        Raises:
            ArgumentError: The trace cannot be written.
        """
        kept = self.index.before(step)
        if kept != self.index:
            self.index = kept
            kept.write(self.folder)
        names = {entry.file for entry in kept.steps}
        for path in self.folder.glob("step-*.safetensors"):
            if path.name not in names:
                with writing(path):
                    path.unlink()
        remove_partial_files(self.folder)

    def is_due(self, step: int, last: int | None = None) -> bool:
        """Return whether a step should be recorded.

        Args:
            step: Number of the step, from 0.
            last: Number of the last step of the run, if it is known.
        """
        if self._settings.steps is not None:
            return step in self._settings.steps
        text = str(step)
        return step == last or (text[0] in "0125" and not text[1:].strip("0"))

    def record(
        self,
        optimizer: DirectionalDampedNewton,
        loss: float | Tensor,
        epoch: int | None = None,
        last: int | None = None,
    ) -> bool:
        """Record the next step of the optimizer if it is due, and return whether it was recorded.

        Call this after the backward pass and before `step()`. Groups that reuse directions of an earlier step, and
        groups of an optimizer of torch, have no directions to record. A step is not recorded if its loss is not finite.

        Args:
            optimizer: The optimizer.
            loss: Loss of the batch.
            epoch: Number of the epoch, from 1.
            last: Number of the last step of the run, if it is known.

        Raises:
            CurvatureError: There was no curvature pass since the last step.
            StrategyError: A criterion or a damping raised, or returned an invalid result.
        """
        if not self.is_due(optimizer.step_count, last):
            return False
        tensors: dict[str, Tensor] = {}
        entries: list[GroupEntry] = []
        groups = [
            index
            for index, group in enumerate(optimizer.param_groups)
            if not is_fallback(group) and optimizer.refreshes(index)
        ]
        for index in groups:
            try:
                entry, own = self._of_group(optimizer, index, len(groups))
            except NonFiniteError:
                return False  # the step itself decides whether the run ends
            entries.append(entry)
            tensors |= {f"{index}.{name}": tensor for name, tensor in own.items()}
        if not entries:
            return False
        value = loss.item() if isinstance(loss, Tensor) else float(loss)
        self._write(optimizer.step_count, epoch, value, tuple(entries), tensors)
        return True

    def note_loss_after(self, step: int, loss: float | None) -> None:
        """Add the loss of the same batch after a recorded step."""
        if self.index.steps and self.index.steps[-1].step == step and loss is not None:
            entry = self.index.steps[-1].model_copy(update={"loss_after": loss})
            self.index = self.index.model_copy(update={"steps": (*self.index.steps[:-1], entry)})
            self.index.write(self.folder)

    @torch.no_grad()
    def _of_group(
        self, optimizer: DirectionalDampedNewton, index: int, shares: int
    ) -> tuple[GroupEntry, dict[str, Tensor]]:
        group = optimizer.param_groups[index]
        every = optimizer.directions(index)
        kept, deltas = every.evals.new_zeros(0, dtype=torch.long), every.evals.new_zeros(0)
        if len(every):
            kept = group["criterion"](every)
        if len(kept):
            deltas = group["damping"](every.select(kept))
        count = self._count(every, shares)
        start = len(every) - count
        directions = every if not start else every.select(range(start, len(every)))
        recorded = kept >= start
        context = every.context
        entry = GroupEntry(
            group=index,
            params=tuple(group.get("param_names", ())),
            criterion=group["criterion"].table(),
            damping=group["damping"].table(),
            reduction=every.reduction,
            lr=context.lr,
            outputs=context.outputs,
            samples=context.samples,
            parameters=context.parameters,
            gradient_norm=context.gradient_norm,
            parameter_norm=context.parameter_norm,
            mean_curvature=context.mean_curvature,
            sample_gradients=context.sample_gradient_square,
            displacement=context.norms.displacement,
            weight_decay=float(group["weight_decay"]),
            found=len(every),
            last=None if context.last is None else asdict(context.last),
        )
        names = ("evals", "evecs", "gammas", "lambdas", "loss_gammas", "loss_lambdas", "all_evals")
        tensors = {name: getattr(directions, name) for name in names}
        return entry, {**tensors, "kept": kept[recorded] - start, "deltas": deltas[recorded]}

    def _count(self, directions: Directions, shares: int) -> int:
        """Return the number of directions of a group to record."""
        per_direction = len(directions.evecs) + 2 * directions.context.samples + 5
        most = self._settings.megabytes * 1e6 / STEP_SHARE / shares / directions.evals.element_size()
        fitting = int((most - len(directions.all_evals)) // per_direction)
        return max(0, min(len(directions), fitting, self._settings.directions or len(directions)))

    def _write(
        self, step: int, epoch: int | None, loss: float, groups: tuple[GroupEntry, ...], tensors: dict[str, Tensor]
    ) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index = self.index.before(step)
        if index.bytes + size > self._settings.megabytes * 1e6:
            self.index = index.model_copy(update={"left_out": (*index.left_out, step)})
        else:
            file = f"step-{step:08}.safetensors"
            written = save_tensors(self.folder / file, tensors)
            entry = StepEntry(step=step, epoch=epoch, loss=loss, file=file, bytes=written, groups=groups)
            self.index = index.model_copy(update={"steps": (*index.steps, entry)})
        self.index.write(self.folder)
