"""Small run, sweep and comparison folders, written in this process without the seconds that trials take."""

from __future__ import annotations

from ddn_core.plugins.registry import installed_registry
from ddn_core.training import train
from ddn_core.trials.comparison import ComparisonPlan, ComparisonTables, Contest
from ddn_core.trials.folder import opened
from ddn_core.trials.process import Result
from ddn_core.trials.sweep import Search, SweepPlan, write_trials

CONFIG = """
problem = {kind = "regression-1d", samples = 24, hidden = [3], batch_size = 8}
[training]
epochs = 2
checkpoint_seconds = 0
[record]
steps = [0, 1]
[[groups]]
params = ["*"]
criterion = {kind = "top-k", k = 3}
damping = {kind = "levenberg-marquardt"}
"""
FIRST_ORDER = """
problem = {kind = "regression-1d", samples = 24, hidden = [3], batch_size = 8}
optimizer = {kind = "adam", lr = 0.01}
[training]
epochs = 2
checkpoint_seconds = 0
"""


def written(place, text=CONFIG, name="newton.toml"):
    """Write a config, and return its path."""
    (place / name).write_text(text)
    return place / name


def finished_run(place):
    """Return the folder of a run with a trace that came to its end."""
    train(written(place), place / "run")
    return place / "run"


def stopped_run(place, text=CONFIG):
    """Return the folder of a run that was stopped after four of six steps, with two checkpoints."""
    events = iter(range(4))
    train(written(place, text), place / "stopped", should_stop=lambda: next(events) == 3)
    return place / "stopped"


def _fill(plan, path):
    with opened(path, plan) as folder:
        for task in plan.tasks(path):
            folder.prepare(task)
            train(task.config, task.run, overrides=task.overrides)
            folder.keep(task, Result.of_run(task.run, 0, 1.0))
        return folder, folder.results(plan)


def finished_sweep(place):
    """Return the folder of a sweep of two trials."""
    search = Search(grid=["groups.0.criterion.k=2,3"])
    plan = SweepPlan.of(written(place), search, installed_registry())
    folder, results = _fill(plan, place / "sweep")
    write_trials(folder, plan, results)
    return place / "sweep"


def finished_comparison(place):
    """Return the folder of a comparison of two configs with two seeds each."""
    configs = (written(place), written(place, FIRST_ORDER, "adam.toml"))
    plan = ComparisonPlan.of(Contest(configs, seeds=2), installed_registry())
    plan = plan.model_copy(update={"targets": ("train_loss <= 0.5",)})
    folder, results = _fill(plan, place / "comparison")
    ComparisonTables(folder, plan).write(results)
    return place / "comparison"


def unfinished_sweep(place):
    """Return the folder of a sweep of which no trial has begun."""
    plan = SweepPlan.of(written(place), Search(grid=["groups.0.criterion.k=2,3"]), installed_registry())
    with opened(place / "sweep", plan):
        return place / "sweep"


def unfinished_comparison(place):
    """Return the folder of a comparison of two configs of which no trial has begun."""
    configs = (written(place), written(place, FIRST_ORDER, "adam.toml"))
    with opened(place / "comparison", ComparisonPlan.of(Contest(configs, seeds=1), installed_registry())):
        return place / "comparison"
