"""Training runs of the configs in `docs/evidence`, with losses over steps and over seconds spent in steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ddn_core.config import load_config
from ddn_core.runs.events import EvaluationEvent, StepEvent
from ddn_core.training import train as run

FOLDER = Path(__file__).parents[2] / "docs" / "evidence"

Point = dict[str, float]
Until = Callable[[Point], bool]


def train(name: str, seed: int, overrides: Sequence[str] = (), until: Until = lambda point: False) -> list[Point]:
    """Train a config and return one point for each evaluation.

    Only the steps are timed: forward and backward pass, curvature, and update. Evaluations are not.

    Args:
        name: Name of the config in `docs/evidence`.
        seed: Seed of the run.
        overrides: Assignments as of `--set`.
        until: Returns whether the run can stop at a point.
    """
    points: list[Point] = []
    reached = False

    def note(event: StepEvent | EvaluationEvent) -> None:
        nonlocal reached
        if isinstance(event, EvaluationEvent) and not reached:
            loss = event.train_loss if event.whole_train_loss is None else event.whole_train_loss
            points.append(
                {"step": event.step, "seconds": event.step_seconds, "loss": loss, "test": event.test_loss}
                | event.test_metrics
            )
            reached = until(points[-1])

    run(
        FOLDER / f"{name}.toml",
        overrides=[*overrides, f"training.seed={seed}"],
        on_event=note,
        should_stop=lambda: reached,
    )
    return points


def autoencoder(seed: int, quick: bool) -> dict[str, Any]:
    """Return the whole run of Adam, and our run, which stops at Adam's final loss or after a tenth of its steps."""
    epochs = 2 if quick else 200
    theirs = train("autoencoder-adam", seed, [f"training.epochs={epochs}"])
    goal, steps = theirs[-1]["loss"], theirs[-1]["step"] / 10
    ours = train(
        "autoencoder-ddn",
        seed,
        ["training.epochs=10000", "training.evaluate_every=1"],
        lambda point: point["loss"] <= goal or point["step"] >= steps,
    )
    return {"seed": seed, "goal": goal, "theirs": theirs, "ours": ours, "reached": ours[-1]["loss"] <= goal}


def regression(seed: int, quick: bool) -> dict[str, Any]:
    """Return the run of Adam with its whole schedule, and our run, which takes as many seconds."""
    steps = 300 if quick else 10000
    schedule = [f"training.epochs={steps}", f"training.scheduler.T_max={steps}"]
    theirs = train("regression-adam", seed, schedule)
    seconds = theirs[-1]["seconds"]
    ours = train("regression-ddn", seed, ["training.epochs=1000000"], lambda point: point["seconds"] >= seconds)
    return {"seed": seed, "theirs": theirs[:: max(steps // 200, 1)] + theirs[-1:], "ours": ours}


def sinc(seed: int, quick: bool) -> dict[str, Any]:
    """Return 300 steps of `torch-levenberg-marquardt`, and our run, which stops at the final loss of these steps.

    Raises:
        ModuleNotFoundError: `torch-levenberg-marquardt` is not installed.
    """
    import torch_levenberg_marquardt as tlm

    steps = 5 if quick else 300
    parts = load_config(FOLDER / "sinc-ddn.toml", [f"training.seed={seed}"]).problem
    assert parts is not None
    torch.manual_seed(seed)
    problem = parts.load()
    model = problem.model.float()
    trainer = tlm.training.LevenbergMarquardtModule(
        model=model,
        loss_fn=tlm.loss.MSELoss(),
        learning_rate=1.0,
        attempts_per_step=10,
        solve_method="qr",
        damping_strategy=tlm.damping.StandardDampingStrategy(starting_value=1e-3),
    )
    made, seconds = 0, 0.0
    while made < steps:
        for X, y in problem.train_batches:
            X, y = X.float(), y.float()
            begun = perf_counter()
            trainer.training_step(X, y)
            seconds += perf_counter() - begun
            made += 1
            if made == steps:
                break
    with torch.no_grad():
        losses = [problem.loss_function(model(X.float()), y.float()) for X, y in problem.train_batches]
    goal = float(torch.stack(losses).mean())
    overrides = ["training.epochs=1000", "training.evaluate_every=5", "training.evaluate_training=true"]
    ours = train("sinc-ddn", seed, overrides, lambda point: point["loss"] <= goal or point["step"] >= 2 * steps)
    theirs = [{"step": steps, "seconds": seconds, "loss": goal}]
    return {"seed": seed, "goal": goal, "theirs": theirs, "ours": ours, "reached": ours[-1]["loss"] <= goal}


def digits(seed: int, quick: bool) -> dict[str, Any]:
    """Return runs of Adam and ours to a test accuracy of 97 %, which is evaluated after each step."""
    goal, most = (0.5, 20) if quick else (0.97, 400)
    found: dict[str, Any] = {"seed": seed, "goal": goal}
    for side, name in (("theirs", "digits-adam"), ("ours", "digits-ddn")):
        overrides = ["training.epochs=10000", "training.evaluate_every=1"]
        run = train(name, seed, overrides, lambda point: point["accuracy"] >= goal or point["step"] >= most)
        found[side] = run
        found[f"{side} reached"] = run[-1]["accuracy"] >= goal
    return found
