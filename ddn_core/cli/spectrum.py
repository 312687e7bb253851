"""`ddn spectrum`: the curvature of a trained model on given data, as a table and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from ddn_core.cli.options import new_folder
from ddn_core.cli.terminal import Terminal, say
from ddn_core.config import Config
from ddn_core.config.provenance import resolved_config
from ddn_core.errors import ArgumentError
from ddn_core.files import writing
from ddn_core.optim import DirectionalDampedNewton
from ddn_core.plots import derivatives, noise, shares, spectrum
from ddn_core.plugins.problem import ProblemParts
from ddn_core.plugins.registry import Registry
from ddn_core.reports import check_installed, size_text, write_report
from ddn_core.runs import RunRecord
from ddn_core.runs.checkpoints import load_checkpoint
from ddn_core.runs.record import CHECKPOINT
from ddn_core.tables import short_text
from ddn_core.traces import Recorder, Trace, TraceGroup, signal_to_noise
from ddn_core.training.problem import checked_batches, load_problem
from ddn_core.training.stepping import stepper_of

PICTURE = "spectrum.png"
REPORT = "report.html"


def spectrum_report(
    config: Config,
    source: str,
    registry: Registry,
    checkpoint: Path,
    data: Literal["train", "test"],
    samples: int,
    out: Path,
) -> None:
    """Compute the curvature of a trained model, print a summary, and write figures and a report.

    Args:
        config: The problem and the groups. A config of a torch optimizer has no groups: one group has all parameters.
        source: Name of its file, for messages.
        registry: The plugins.
        checkpoint: A checkpoint of `ddn train`, a run folder, or a file with the model's `state_dict`.
        data: Which data of the problem.
        samples: Number of samples; the first samples that the problem yields with its seed are used.
        out: Folder to write.

    Raises:
        DdnError: Config, checkpoint or data are wrong, or the curvature cannot be computed.
    """
    check_installed()
    weights, resolved = _weights(checkpoint), resolved_config(config, registry)
    parts = load_problem(config, source)
    optimizer = _optimizer(config, parts, source)
    try:
        parts.model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ArgumentError(f"--checkpoint: {checkpoint} belongs to another model: {reason}") from error
    inputs, targets = _samples(config, parts, data, samples)
    folder = new_folder(out)
    parts.model.eval()
    loss = parts.loss_function(parts.model(inputs), targets)
    optimizer.backward(loss)
    recorder = Recorder(folder / "trace", {"steps": [0]})
    recorder.record(optimizer, loss)
    trace = Trace.read(folder / "trace")
    console = Terminal()
    console.print(_table(trace, f"Curvature on {len(inputs)} samples ({data}), loss {loss.item():.4g}"))
    with writing(folder / PICTURE):
        _figure(trace).savefig(folder / PICTURE, dpi=120)
    record = RunRecord(folder, f"{source}, {len(inputs)} samples ({data})", resolved, (), ())
    size = write_report(folder / REPORT, [record], title="Curvature")
    say(console, f"written: {folder / PICTURE}, {folder / REPORT} ({size_text(size)})")


def _weights(checkpoint: Path) -> Any:
    """Return the `state_dict` of the model in a checkpoint, a run folder, or a file of its own."""
    path = checkpoint / CHECKPOINT if checkpoint.is_dir() else checkpoint
    if not path.is_file():
        raise ArgumentError(f"--checkpoint: there is no file {path}.")
    try:
        return load_checkpoint(path)["model"]
    except ArgumentError as error:
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # torch raises many types for a file of another kind
            raise ArgumentError(f"--checkpoint: {error}") from error
        if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
            raise ArgumentError(
                f"--checkpoint: {path} is neither a checkpoint of ddn train nor a model's state_dict."
            ) from error
        return weights


def _optimizer(config: Config, parts: ProblemParts, source: str) -> DirectionalDampedNewton:
    """Move the model to the device of the config, and return an optimizer that captures its curvature."""
    optimizer = stepper_of(config, parts, source).optimizer
    if isinstance(optimizer, DirectionalDampedNewton):
        return optimizer
    return DirectionalDampedNewton(parts.model.named_parameters(), curvature=config.curvature)


def _samples(config: Config, parts: ProblemParts, data: str, count: int) -> tuple[Tensor, Tensor]:
    """Return the first samples of the data."""
    found: list[tuple[Tensor, Tensor]] = []
    for batch in checked_batches(parts.train_batches if data == "train" else parts.test_batches, config):
        found.append(batch)
        if sum(len(inputs) for inputs, _ in found) >= count:
            break
    if not found:
        raise ArgumentError(f"The problem has no {data} data.")
    tensors = (torch.cat([batch[place] for batch in found])[:count] for place in (0, 1))
    dtype = getattr(torch, config.training.dtype)
    inputs, targets = (
        tensor.to(device=config.training.device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
        for tensor in tensors
    )
    return inputs, targets


def _table(trace: Trace, title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=True)
    groups = trace.steps[0].groups
    table.add_column("")
    for group in groups:
        table.add_column(f"group {group.entry.group}", justify="right")
    columns = [_figures(group) for group in groups]
    for name in columns[0]:
        table.add_row(name, *(short_text(column[name]) for column in columns))
    return table


def _figures(group: TraceGroup) -> dict[str, str | int | float | None]:
    """Return a summary of a spectrum by name."""
    evals, directions = group.directions.all_evals.double(), group.directions
    largest = float(evals.max()) if len(evals) else None
    total = float(evals.sum())
    tops = torch.sort(evals, descending=True).values.cumsum(0)
    return {
        "parameters": group.entry.parameters,
        "eigenvalues, numerically nonzero": group.entry.found,
        "largest eigenvalue, loss/param²": largest,
        "trace, loss/param²": total,
        "directions with 90 % of the trace": int((tops < 0.9 * total).sum()) + 1 if total > 0 else None,
        "effective dimension, trace² / Σλ²": total**2 / float(evals.square().sum()) if total > 0 else None,
        "gradient norm, loss/param": group.entry.gradient_norm,
        "its part along the directions": float(directions.loss_gammas.double().norm()),
        "directions above noise": int((signal_to_noise(directions) > 1).sum()),
    }


def _figure(trace: Trace) -> Figure:
    """Return a figure with a row for each group."""
    groups = trace.steps[0].groups
    figure = Figure(figsize=(15, 3.6 * len(groups)), layout="constrained")
    for group, row in zip(groups, figure.subplots(len(groups), 4, squeeze=False), strict=True):
        spectrum(group.directions, row[0], f"Spectrum, group {group.entry.group}")
        derivatives(group, row[1])
        noise(group, row[2])
        shares(group, row[3])
    return figure
