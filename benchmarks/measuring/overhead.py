"""Overhead outside of the engine in a training step: bookkeeping, checks, and metrics."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from ddn_core.config import Config, parse_config
from ddn_core.engine import (
    CaptureSettings,
    Context,
    PlanStore,
    WantedParameter,
    captured_backward,
    damped_newton_step,
)
from ddn_core.plugins.resolve import group_choice
from ddn_core.runs.events import StepEvent
from ddn_core.training.loop import Training
from ddn_core.training.run_folder import RunFolder

CASES: dict[str, dict[str, Any]] = {
    "top 10": {"criterion": {"kind": "top-k", "k": 10}, "damping": {"kind": "constant", "value": 1.0}},
    "all directions": {"criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 1.0}},
}
BATCHES_PER_EPOCH = 11
"""Number of batches of 128 in the digits."""


def measure_overhead(case: str, repetitions: int) -> dict[str, Any]:
    """Return the median time of a whole step of `ddn train`, with its metrics, and of the engine alone.

    Both take turns of one epoch.

    Args:
        case: Key of `CASES`.
        repetitions: Number of turns.
    """
    group = {"params": ["*"], "lr": 0.1, **CASES[case]}
    config = parse_config(
        {"problem": {"kind": "digits-mlp"}, "training": {"epochs": repetitions + 1}, "groups": [group]}
    )
    whole: list[float] = []
    alone: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        training = Training.of(config, "overhead")
        run = RunFolder.begin(Path(folder) / "run", {})
        events = training.events()
        engine = _Engine(config)
        for turn in range(repetitions + 1):
            whole_steps, engine_steps = [], []
            for _ in range(BATCHES_PER_EPOCH):
                event = next(events)  # includes loading the batch, which `event.seconds` does not count
                assert isinstance(event, StepEvent)
                begun = perf_counter()
                run.record(event)
                whole_steps.append(event.seconds + perf_counter() - begun)
                engine_steps.append(engine.step())
            next(events)  # the evaluation
            if turn:  # the first turn is a warm-up
                whole += whole_steps
                alone += engine_steps
        run.close()
    return {"case": case, "whole": median(whole), "alone": median(alone)}


class _Engine:
    """The same step by direct calls of the engine: passes, capture, step, and the update of the parameters."""

    def __init__(self, config: Config) -> None:
        assert config.problem is not None
        torch.manual_seed(0)
        parts = config.problem.load()
        self._model, self._loss_function = parts.model.float(), parts.loss_function
        self._parameters = list(self._model.parameters())
        self._wanted = {id(p): WantedParameter(name, p, 0) for name, p in self._model.named_parameters()}
        self._settings, self._plans = CaptureSettings(), PlanStore()
        self._choice = group_choice(config.groups[0].criterion, config.groups[0].damping, "group 0")
        self._batches = [(X.float(), y) for X, y in parts.train_batches]
        self._made = 0

    def step(self) -> float:
        """Make a step, and return the seconds that it took."""
        X, y = self._batches[self._made % len(self._batches)]
        self._made += 1
        begun = perf_counter()
        for parameter in self._parameters:
            parameter.grad = None
        loss = self._loss_function(self._model(X), y)
        capture = captured_backward(loss, self._wanted, self._settings, self._plans)
        step = damped_newton_step(capture, self._parameters, self._choice, Context(step=self._made))
        with torch.no_grad():
            for parameter, move in zip(self._parameters, step.moves, strict=True):
                parameter.add_(move, alpha=0.1)
        del step  # its memory is freed within the timed step, as in `ddn train`
        return perf_counter() - begun
