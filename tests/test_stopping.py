"""Stop rules: in a loop of one's own, and in runs, which then count as finished."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton
from ddn_core.config import load_config
from ddn_core.errors import ArgumentError, ConfigError
from ddn_core.optim import Stopping
from ddn_core.runs import RunRecord
from ddn_core.training import train
from ddn_core.training.loop import Training
from ddn_core.training.problem import load_problem
from ddn_core.training.stepping import stepper_of
from tests.commands import ddn

TEXT = """
problem = { kind = "sinc", samples = 64, batch_size = 16 }
training = { epochs = 30 }
[[groups]]
params = ["*"]
criterion = { kind = "all" }
damping = { kind = "constant", value = 0.1 }
"""
SGD = {
    "problem": {"kind": "sinc", "samples": 64, "batch_size": 16},
    "training": {"epochs": 30},
    "optimizer": {"kind": "sgd", "lr": 0.1},
}


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(TEXT)
    return path


def test_means_are_those_since_the_last_evaluation():
    stopping = Stopping(loss=1.0, gradient_norm=0.5)
    for loss in (2.0, 0.1):
        stopping.see(loss, gradient_norm=1.0)
    assert stopping.reason() is None
    for loss in (1.5, 0.5):
        stopping.see(loss, gradient_norm=0.75)
    reason = stopping.reason()
    assert (reason.rule, str(reason)) == ("loss", "the training loss is 1, at most 1")
    stopping.see(3.0, gradient_norm=0.5)
    assert stopping.reason().rule == "gradient_norm"
    stopping.see(0.1, gradient_norm=math.nan)
    assert stopping.reason({"whole_train_loss": 2.0}) is None  # takes the place of the mean
    assert stopping.reason() is None  # no step, no mean


@pytest.mark.parametrize(
    ("settings", "values", "expected"),
    [
        ({}, [3.0, 2.0, 2.5, 2.1, 1.0], 3),
        ({"min_change": 0.5}, [3.0, 2.6, 2.5], 2),
        ({"min_change": 0.4}, [3.0, 2.5, 2.2, 2.0, 1.9, 1.8], 5),
        ({"metric": "accuracy"}, [0.5, 0.6, 0.7, 0.7, 0.7], 4),
        ({"metric": "error", "maximize": False}, [0.5, 0.4, 0.4, 0.45], 3),
        ({}, [math.nan, math.nan], 1),
        ({}, [3.0, math.nan, 2.0, math.inf, 2.0], 4),
    ],
)
def test_patience_counts_evaluations_without_a_better_value(settings, values, expected):
    stopping = Stopping(patience=2, **settings)
    name = settings.get("metric", "test_loss")
    reasons = [stopping.reason({name: value}) for value in values]
    assert [index for index, reason in enumerate(reasons) if reason][:1] == [expected]
    assert reasons[expected].rule == "patience"


def test_time_is_that_of_the_clock():
    clock = Clock()
    stopping = Stopping(seconds=10, clock=clock)
    clock.now = 9.9
    assert stopping.late() is stopping.reason() is None
    saved = stopping.state_dict()
    clock.now = 100.0
    assert stopping.late().text == "100 seconds have passed, of 10"
    other = Stopping(seconds=10, clock=clock)
    other.load_state_dict(saved)  # the pause does not count
    assert other.late() is None
    clock.now = 100.2
    assert other.late().rule == "seconds"


def test_what_is_seen_survives_a_copy():
    one, other = Stopping(loss=1.0, patience=2), Stopping(loss=1.0, patience=2)
    one.see(0.5)
    assert one.reason({"test_loss": 1.0}).rule == "loss"
    one.see(3.0)
    assert one.reason({"test_loss": 2.0}) is None
    one.see(0.5)
    other.load_state_dict(one.state_dict())
    other.see(1.4)
    assert other.reason({"test_loss": 2.0}).rule == "loss"  # of the mean of 0.5 and 1.4
    other.see(3.0)
    assert other.reason({"test_loss": 2.0}).rule == "patience"


def test_norms_are_read_from_the_optimizer():
    torch.manual_seed(0)
    model, loss_function, X, y = nn.Linear(3, 1), nn.MSELoss(), torch.randn(8, 3), torch.randn(8, 1)
    group = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 1e-3}}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group])
    stopping = Stopping(gradient_norm=1e-3, step_norm=1e-6)
    reasons = []
    for _ in range(10):
        optimizer.zero_grad()
        optimizer.backward(loss_function(model(X), y))
        before = [one.detach().clone() for one in model.parameters()]
        stopping.see(optimizer.step(), optimizer)
        gradient = torch.cat([one.grad.flatten() for one in model.parameters()]).norm()
        pairs = zip(model.parameters(), before, strict=True)
        moved = torch.cat([(after.detach() - earlier).flatten() for after, earlier in pairs]).norm()
        norms = stopping.state_dict()["means"]
        assert norms["gradient_norm"] == (pytest.approx(float(gradient), rel=1e-5, abs=1e-9), 1)
        assert norms["step_norm"] == (pytest.approx(float(moved), rel=1e-3, abs=1e-7), 1)
        reasons.append(stopping.reason())
    assert reasons[0] is None
    assert "gradient_norm" in {reason.rule for reason in reasons if reason}


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.5},
        {"averaging": 0.9},
        {"max_step_norm": 0.01},
        {"lr": 20.0, "step": {"on_increase": "shorten", "attempts": 10}},
        {"lr": 20.0, "step": {"on_increase": "undo"}},
    ],
    ids=["factor", "average", "limit", "shortened", "undone"],
)
def test_the_norm_of_a_step_is_the_way_that_the_parameters_moved(settings):
    torch.manual_seed(0)
    model, loss_function, X, y = nn.Linear(3, 1), nn.MSELoss(), torch.randn(8, 3), torch.randn(8, 1)
    model, X, y = model.double(), X.double(), y.double()
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=1e-3, **settings)
    for _ in range(3):
        optimizer.zero_grad()
        optimizer.backward(loss_function(model(X), y))
        before = parameters_to_vector(model.parameters()).detach()
        optimizer.step(lambda: loss_function(model(X), y))
        stopping = Stopping(step_norm=1.0)
        stopping.see(1.0, optimizer)
        moved = float((parameters_to_vector(model.parameters()).detach() - before).norm())
        assert stopping.state_dict()["means"]["step_norm"] == (pytest.approx(moved, rel=1e-6, abs=1e-12), 1)
        assert (moved == 0) == (settings.get("step") == {"on_increase": "undo"})


def test_errors_name_what_is_missing():
    with pytest.raises(
        ArgumentError, match="step_norm needs the norm of each step, which this optimizer does not report"
    ):
        Stopping(step_norm=1.0).see(1.0, torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1))
    with pytest.raises(ArgumentError, match="needs the norm of each step"):
        Stopping(gradient_norm=1.0).see(1.0)
    with pytest.raises(ArgumentError, match="'accuracy', and the metrics have train_loss, test_loss"):
        Stopping(patience=1, metric="accuracy").reason({"test_loss": 1.0})
    with pytest.raises(ArgumentError, match="Give them once"):
        Stopping({"loss": 1.0}, patience=1)
    with pytest.raises(ConfigError, match="Did you mean 'patience'"):
        Stopping(patince=1)


# Runs


@pytest.mark.parametrize("table", ["newton", "sgd"])
@pytest.mark.parametrize("name", ["loss", "gradient_norm", "step_norm"])
def test_a_run_stops_at_the_first_evaluation_that_meets_a_rule(config, table, name):
    """Measured by a run that does not stop, at a limit between its values."""
    given = config if table == "newton" else SGD
    measured = [f"training.stop.{rule}=1e-30" for rule in ("gradient_norm", "step_norm")]
    whole = train(given, overrides=[*measured, "training.epochs=6"])
    steps = whole.history.steps
    means = [
        sum(getattr(one, name) for one in steps if one.epoch == epoch) / sum(one.epoch == epoch for one in steps)
        for epoch in range(1, 7)
    ]
    limit = (means[0] + min(means)) / 2
    expected = next(epoch for epoch, mean in enumerate(means, 1) if mean <= limit)
    result = train(given, overrides=[f"training.stop.{name}={limit!r}"])
    assert result.finished
    assert (result.end.rule, result.end.diverged_at) == (name, None)
    assert len(result.history.epochs) == expected < 6
    assert result.history.steps[-1].loss == steps[len(result.history.steps) - 1].loss


def test_a_stopped_run_counts_as_finished(config, tmp_path):
    target = "training.stop.loss=0.06"
    result = ddn("train", config, "--out", tmp_path / "run", "--set", target, "--set", "training.evaluate_every=3")
    assert result.returncode == 0
    assert "Run stopped" in result.stdout
    assert "at most 0.06" in result.stdout
    run = RunRecord.read(tmp_path / "run")
    assert run.finished
    assert run.end.rule == "loss"
    assert run.end.step == len(run.steps) == run.epochs[-1].step  # it was evaluated where it stopped
    assert run.epochs[-1].train_loss <= 0.06
    assert run.steps[-1].epoch < 30
    again = ddn("train", "--resume", tmp_path / "run")
    assert again.returncode == 1
    assert "is finished: it stopped after" in again.stderr


def test_a_run_stops_when_its_time_is_over(config):
    loaded = load_config(config, ["training.stop.seconds=10.0"])
    parts, clock = load_problem(loaded, "c.toml"), Clock()
    training = Training(loaded, parts, stepper_of(loaded, parts, "c.toml"), clock)
    events = []
    for event in training.events():
        clock.now += 1.5
        events.append(event)
    assert training.end.rule == "seconds"
    assert len(training.history.steps) == training.end.step
    assert events[-1].ends_epoch
    assert events[-1].step == training.end.step
    assert 10.0 <= events[-1].seconds < 13.0


def test_patience_ends_a_run_and_is_kept_by_a_checkpoint(config, tmp_path):
    rules = ["training.stop.patience=3", "training.stop.min_change=0.001", "training.checkpoint_seconds=0.0"]
    whole = train(config, tmp_path / "whole", overrides=rules)
    assert whole.end.rule == "patience"
    seen, stop = [], len(whole.history.steps) - 2
    first = train(
        config, tmp_path / "parts", overrides=rules, on_event=seen.append, should_stop=lambda: len(seen) >= stop
    )
    assert not first.finished
    assert train(resume=tmp_path / "parts").end == whole.end


def test_a_metric_that_the_run_lacks_is_told_before_it_begins(config, tmp_path):
    rules = ["training.stop.patience=1", 'training.stop.metric="accuracy"']
    with pytest.raises(
        ConfigError, match=r"c.toml: training.stop.metric: the run has no metric 'accuracy'\. It has train_loss"
    ):
        train(config, tmp_path / "run", overrides=rules)
    assert not (tmp_path / "run").exists()
