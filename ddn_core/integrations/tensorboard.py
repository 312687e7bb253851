"""What a step did, for TensorBoard: spectra and dampings as histograms, everything else as scalars."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ddn_core.optim import DirectionalDampedNewton, StepReport


class Writer(Protocol):
    """What is used of `torch.utils.tensorboard.SummaryWriter`."""

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
    """Write what the last step of an optimizer did.

    For each group i there are, under `ddn/group i/`, the histograms `log10 evals` (all eigenvalues before the criterion
    chose), `log10 deltas` and `log10 |gammas|` of what is positive and finite, and the scalars `directions`,
    `step norm`, `predicted decrease`, `lr`, `clip`, `taken` and `seconds/STAGE`; under `ddn/` there are `loss`,
    `skipped steps` and `undone steps`.

    A step that was solved for without eigenvectors gets its spectrum now, which takes an eigendecomposition: write
    every so many steps.

    Args:
        writer: A `torch.utils.tensorboard.SummaryWriter`.
        optimizer: The optimizer, after its step.
        step: Number of the step.
        loss: Loss of the batch, if it is to be written.
        prefix: What all tags begin with.
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
