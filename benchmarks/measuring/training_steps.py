"""Steps of the optimizer against plain SGD steps: time, peak memory, and numbers of calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.measuring.calls import count_calls
from benchmarks.measuring.clock import seconds_of
from benchmarks.measuring.memory import PeakGauge
from benchmarks.measuring.timing import time_in_turns
from benchmarks.problems import Batch
from benchmarks.workloads import WORKLOADS, Workload
from ddn_core import DirectionalDampedNewton

SIDES = ("gradient", "ours")
"""Names of the sides: a step of SGD, and a step of our optimizer."""
_LEARNING_RATE = 0.1
_WARM_UP, _COUNTED = 3, 5


class TrainingStep:
    """A training step on one batch: clear the gradients, forward pass, backward pass, update."""

    def __init__(self, workload: Workload, side: str, device: str) -> None:
        """Build the model. This is not measured.

        Args:
            workload: Training step to measure.
            side: One of `SIDES`.
            device: Device of model and data.
        """
        self.batch: Batch = on_device(workload.make(), device)
        self._is_restored, self._generator = workload.is_restored, torch.Generator().manual_seed(0)
        self._parameters = list(self.batch.model.parameters())
        self._start = [parameter.detach().clone() for parameter in self._parameters]
        self._sgd = torch.optim.SGD(self._parameters, lr=_LEARNING_RATE)
        self._newton = DirectionalDampedNewton(
            self.batch.model.named_parameters(), **{"lr": _LEARNING_RATE, **workload.settings}
        )
        self.step: Callable[[], None] = self._sgd_step if side == "gradient" else self._newton_step

    def _sgd_step(self) -> None:
        self._sgd.zero_grad()
        torch.autograd.backward(self.batch.loss())
        self._sgd.step()

    def _newton_step(self) -> None:
        self._newton.zero_grad()
        self._newton.backward(self.batch.loss())
        self._newton.step()

    @torch.no_grad()
    def restore(self) -> None:
        """Make the next step the same as the last, or one on other inputs. This is not measured."""
        if self._is_restored:
            for parameter, start in zip(self._parameters, self._start, strict=True):
                parameter.copy_(start)
            return
        inputs = self.batch.inputs
        if inputs.is_floating_point():
            fresh = torch.randn(inputs.shape, generator=self._generator)
        else:
            fresh = torch.randint(int(inputs.max()) + 1, inputs.shape, generator=self._generator)
        self.batch = replace(self.batch, inputs=fresh.to(inputs))

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Return whether the parameters are finite. This is not measured."""
        return all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters)


def on_device(batch: Batch, device: str) -> Batch:
    """Return a batch with its model on a device; the model itself is moved."""
    model: nn.Module = batch.model.to(device)
    return replace(batch, model=model, inputs=batch.inputs.to(device), targets=batch.targets.to(device))


def time_training_steps(workload: str, repetitions: int, device: str) -> dict[str, Any]:
    """Return the times of both sides, which take turns, and the counts of our steady step.

    On CUDA, the peak memory of both sides is part of the result.

    Args:
        workload: Name of the workload.
        repetitions: Number of turns.
        device: Device of models and data.
    """
    steps = {side: TrainingStep(WORKLOADS[workload], side, device) for side in SIDES}
    found = time_in_turns(
        {side: made.step for side, made in steps.items()},
        WORKLOADS[workload].turns * repetitions,
        device,
        {side: made.restore for side, made in steps.items()},
    )
    for side, made in steps.items():
        found[side]["finite"] = made.is_finite()
    found["counts"] = _counts(steps["ours"], device)
    if torch.device(device).type == "cuda":
        found["memory"] = {side: _peak(made, device) for side, made in steps.items()}
    return found


def memory_of_training_step(workload: str, side: str, device: str) -> dict[str, Any]:
    """Return the peak extra memory of a step, in a process that does nothing else.

    One step as a warm-up makes what all later steps share: code, caches of torch, and the plan of the capture.

    Args:
        workload: Name of the workload.
        side: One of `SIDES`.
        device: Device of model and data.
    """
    return _peak(TrainingStep(WORKLOADS[workload], side, device), device)


def _peak(made: TrainingStep, device: str) -> dict[str, Any]:
    """Return the peak extra memory of a step; its gradients are part of it, as they are cleared before."""
    seconds_of(made.step, device)
    for parameter in made.batch.model.parameters():
        parameter.grad = None
    gauge = PeakGauge(device)
    seconds = seconds_of(made.step, device)
    return {"bytes": gauge.peak(), "method": gauge.method, "seconds": seconds}


def _counts(made: TrainingStep, device: str) -> dict[str, int]:
    """Return the numbers of operations, of reads, and (on CUDA) of waits for the device in a steady step."""
    for _ in range(_WARM_UP):
        made.step()
    counted = []
    for _ in range(_COUNTED):
        made.restore()
        counted.append(count_calls(made.step))
    counts = {"calls": int(median(c.calls for c in counted)), "reads": int(median(c.reads for c in counted))}
    if torch.device(device).type == "cuda":
        counts["waits"] = int(median(_waits(made.step) for _ in range(_COUNTED)))
    return counts


def _waits(step: Callable[[], None]) -> int:
    """Return how often the host waits for the GPU in a step, as torch reports it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(warning.message) for warning in caught)
