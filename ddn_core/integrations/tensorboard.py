"""Figures of a step for TensorBoard: spectra and dampings as histograms, everything else as scalars."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ddn_core.optim import DirectionalDampedNewton, StepReport


class Writer(Protocol):
    """The part of `torch.utils.tensorboard.SummaryWriter` that `write_step` uses."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Write a number."""

    def add_histogram(self, tag: str, values: Tensor, global_step: int) -> None:
        """Write a distribution."""


def write_step(
    writer: Writer,
    optimizer: DirectionalDampedNewton,
    step: int,
    loss: float | Tensor | None = None,
    prefix: str = "ddn",
) -> None:
    """Write the figures of the last step of an optimizer.

    For each group i, `ddn/group i/` has the histograms `log10 evals` (of all eigenvalues, before the criterion),
    `log10 deltas` and `log10 |gammas|`, each of the positive and finite values, and the scalars `directions`,
    `step norm`, `predicted decrease`, `lr`, `clip`, `taken` and `seconds/STAGE`. The tags `loss`, `skipped steps` and
    `undone steps` are directly under `ddn/`.

    If the step was computed without eigenvectors, this call makes an eigendecomposition. Then write only some steps.

    Args:
        writer: A `torch.utils.tensorboard.SummaryWriter`.
        optimizer: The optimizer, after its step.
        step: Number of the step.
        loss: Loss of the batch; by default, no loss is written.
        prefix: Prefix of all tags.
    """
    if loss is not None:
        writer.add_scalar(f"{prefix}/loss", float(loss.detach() if isinstance(loss, Tensor) else loss), step)
    writer.add_scalar(f"{prefix}/skipped steps", optimizer.skipped_steps, step)
    writer.add_scalar(f"{prefix}/undone steps", optimizer.undone_steps, step)
    for index, report in enumerate(optimizer.last_step):
        where = f"{prefix}/group {index}"
        for tag, number in _scalars(report).items():
            writer.add_scalar(f"{where}/{tag}", number, step)
        for tag, values in _histograms(report).items():
            if len(values):
                writer.add_histogram(f"{where}/{tag}", values, step)


def _scalars(report: StepReport) -> dict[str, float]:
    named: dict[str, Any] = {
        "directions": report.directions,
        "step norm": report.step_norm,
        "predicted decrease": report.predicted_decrease,
        "lr": report.lr,
        "clip": report.clip,
        "taken": report.taken,
    }
    named |= {f"seconds/{stage}": seconds for stage, seconds in report.seconds.items()}
    return {tag: float(value) for tag, value in named.items()}


def _histograms(report: StepReport) -> dict[str, Tensor]:
    named = {"log10 evals": report.all_evals, "log10 deltas": report.deltas, "log10 |gammas|": report.gammas.abs()}
    return {tag: values[(values > 0) & values.isfinite()].log10().cpu() for tag, values in named.items()}
