"""Divergence: what counts as such, the warning in a loop of one's own, and runs that stop because of it."""

from __future__ import annotations

import json
import math
import re
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ddn_core import DirectionalDampedNewton
from ddn_core.api import Problem, ProblemParts
from ddn_core.config import load_config
from ddn_core.errors import ArgumentError, DivergenceWarning, NonFiniteError
from ddn_core.optim.divergence import DivergenceWatch
from ddn_core.runs import RunRecord, StepEvent
from ddn_core.training import train
from ddn_core.training.advice import advice
from tests.commands import ddn

NAN, INF = math.nan, math.inf
EXPLODING = """
problem = { kind = "spirals", samples = 120, batch_size = 24 }
training = { epochs = 4 }
[[groups]]
params = ["*"]
criterion = { kind = "all" }
damping = { kind = "constant", value = 1e-3 }
"""
ADAM = {
    "problem": {"kind": "sinc", "samples": 64, "batch_size": 16},
    "training": {"epochs": 2},
    "optimizer": {"kind": "adam"},
}


def watched(losses, factor=10.0):
    watch = DivergenceWatch(factor)
    for loss in losses:
        watch.see(loss)
    return watch


def first_seen(losses):
    """Return the step after which divergence is seen, and the step that it names."""
    watch = DivergenceWatch()
    for number, loss in enumerate(losses):
        watch.see(loss)
        if watch.diverged_at is not None:
            return number, watch.diverged_at
    return None


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1.0] * 20, None),
        ([1.0] * 6 + [9.9] * 9, None),
        ([1.0] * 6 + [10.1] * 9, (8, 6)),
        ([1.0] * 6 + [1e9, 1e9, 1.0, 1.0, 1.0, 1e9, 1e9, 1.0, 1.0, 1.0], None),  # single batches do not decide
        ([0.1] + [1.0] * 5 + [9.0] * 9, None),  # the first batch may be low by chance
        ([1e-3, 1.0, 0.7, 1.3, 0.8, 0.9, 1.1, 0.5, 0.9], None),
        ([0.7, 5e5, 4e5, 5e5, 5e5, 5e5], (3, 1)),  # from the first step on: the others say nothing of the beginning
        ([0.12, 20.0, 12.0, 5.0, 2.0, 1.0, 0.5, 0.05, 0.02], None),  # as Adam with a high lr does, and comes back
        ([1.0, NAN, 1.0, NAN, 1.0, NAN, 1.0], (5, 1)),
        ([1.0, NAN, 1.0, 1.0, NAN, 1.0, 1.0, NAN, 1.0], None),  # skipped batches
        ([1.0, 2.0, NAN, NAN, NAN], (4, 2)),
        ([NAN, NAN, NAN], (2, 0)),
        ([1.0, 1.0, INF, INF, INF], (4, 2)),
        ([-2.0, -3.0, -2.5, -2.0, -2.0] + [15.0] * 5, None),  # -2 + 9 · 2 = 16
        ([-2.0, -3.0, -2.5, -2.0, -2.0] + [17.0] * 5, (7, 5)),
        ([0.1, 0.05, -1.0, -2.0, -3.0] + [-3.0] * 5 + [0.0, 0.05, 0.1] * 3, None),
        ([0.1] * 5 + [-3.0] * 5 + [27.0] * 5, None),  # 0.1 + 9 · 3.1 = 28: the decrease below 0.1 gives the scale
        ([0.1] * 5 + [-3.0] * 5 + [29.0] * 5, (12, 10)),
        ([1.0, 1.0, -5.0, 1.0, 1.0] + [15.0] * 5, (7, 5)),  # a single low batch at the beginning is no decrease
        ([0.0] * 9, None),
        ([1e-16] * 5 + [1e-14, 3e-14] * 5, None),  # rounding
        ([1e-9] * 5 + [1e-7] * 5, (7, 5)),  # a small loss is not a rounding error
    ],
)
def test_what_is_divergence(losses, expected):
    assert first_seen(losses) == expected


@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=40), st.sampled_from([2.0**-20, 2.0**20, 2.0**30]))
def test_the_unit_of_the_loss_does_not_matter(losses, scale):
    assert first_seen(losses) == first_seen([scale * loss for loss in losses])


@given(st.lists(st.floats(allow_nan=True), max_size=30), st.integers(0, 30))
def test_a_watch_goes_on_from_its_state(losses, cut):
    """Whatever the losses are."""
    one = watched(losses[:cut])
    other = DivergenceWatch(one.factor, list(one.first), list(one.last), one.lowest, one.count)
    for loss in losses[cut:]:
        other.see(loss)
    assert other.diverged_at == watched(losses).diverged_at


def test_divergence_ends_if_the_losses_come_back():
    watch = watched([1.0] * 5 + [50.0] * 4)
    assert watch.diverged_at == 5
    for _ in range(3):
        watch.see(2.0)
    assert watch.diverged_at is None


def test_the_end_of_a_run_is_judged_by_its_first_loss_unless_that_is_low_by_chance():
    assert watched([2.0, 19.0, 25.0, 30.0, 22.0]).limit_of_mean == 20.0
    assert watched([0.01, 1.0, 0.8, 1.3, 0.9]).limit_of_mean == 0.8
    assert watched([]).limit_of_mean == INF
    assert watched([1.0]).limit_of_mean == 10.0


def exploding(steps, **settings):
    """Make steps that are twenty times too long, and return the warnings about divergence."""
    torch.manual_seed(0)
    model, loss_function, inputs, targets = nn.Linear(3, 1), nn.MSELoss(), torch.randn(8, 3), torch.randn(8, 1)
    group = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 1e-6}}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], lr=20.0, **settings)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(steps):
            optimizer.zero_grad()
            optimizer.backward(loss_function(model(inputs), targets))
            optimizer.step(lambda: loss_function(model(inputs), targets))
    return [one for one in seen if one.category is DivergenceWarning]


def test_the_optimizer_warns_once_in_the_line_of_the_step():
    (warning,) = exploding(8)
    assert "diverges from step 2 on: the loss is" in str(warning.message)
    assert "max_step_norm" in str(warning.message)
    assert warning.filename == __file__
    assert exploding(2) == []


def test_steps_that_are_shortened_do_not_warn():
    assert exploding(8, step={"on_increase": "shorten", "attempts": 10}) == []


# Runs


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(EXPLODING)
    return path


def test_a_run_that_diverges_stops_and_says_so(config, tmp_path):
    result = ddn("train", config, "--out", tmp_path / "run")
    assert result.returncode == 3
    assert "Run diverged" in result.stdout
    assert "Run finished" not in result.stdout
    run = RunRecord.read(tmp_path / "run")
    losses = [step.loss for step in run.steps]
    assert (run.end.rule, run.end.diverged_at) == ("divergence", run.diverged_at)
    assert first_seen(losses) == (len(losses) - 1, run.diverged_at)
    assert run.end.step == len(losses) < 16
    assert f"diverged at step {run.diverged_at}: the loss is" in result.stderr
    assert "what to try:" in result.stderr
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["event"] == "end"
    assert run.finished
    again = ddn("train", "--resume", tmp_path / "run")
    assert again.returncode == 1
    assert f"is finished: it diverged at step {run.diverged_at}" in again.stderr


def test_the_message_is_red(config, tmp_path, capsys):
    from rich.console import Console

    from ddn_core.cli.train import show_divergence

    end = train(config).end
    show_divergence(Console(force_terminal=True, color_system="standard", width=500), end)
    assert capsys.readouterr().out.startswith(f"\x1b[31mdiverged at step {end.diverged_at}: ")


def test_what_is_advised_can_be_set_and_helps(config):
    end = train(config).end
    settings = re.findall(r"--set '([^']+)'", " ".join(end.advice))
    assert [text.partition("=")[0] for text in settings] == [
        "groups.*.max_step_norm",
        "groups.*.damping.value",
        "step.on_increase",
        "groups.*.lr",
    ]
    assert all(load_config(config, [text]) for text in settings)
    assert train(config, overrides=settings).end is None
    assert "the quadratic model predicted a decrease of" in end.advice[0]


def test_a_run_may_go_on_and_is_judged_at_its_end(config):
    go_on = 'training.on_divergence="continue"'
    result = train(config, overrides=[go_on])
    assert len(result.history.steps) == 16
    assert len(result.history.epochs) == 4
    assert result.finished
    assert result.end.diverged_at is not None
    assert train(config, overrides=[go_on, "training.divergence_factor=1e30"]).end is None


def test_a_loss_that_overflows_ends_the_run_rather_than_the_program(config, tmp_path):
    overrides = ['problem={kind="sinc", samples=64, batch_size=16}', "groups.0.lr=1e25"]
    result = train(config, tmp_path / "run", overrides=overrides)
    assert (result.end.diverged_at, len(result.history.steps)) == (1, 1)
    assert result.end.reason.startswith("the loss is inf")
    assert (tmp_path / "run/checkpoint.pt").exists()
    assert RunRecord.read(tmp_path / "run").end == result.end


class NoNumbers(Problem):
    """A problem whose targets are no numbers: nothing diverges, the data is wrong."""

    def load(self):
        """Return targets of NaN."""
        batches = [(torch.ones(4, 1), torch.full((4, 1), NAN))]
        return ProblemParts(nn.Linear(1, 1), nn.MSELoss(), batches, batches)


def test_a_loss_that_is_not_finite_before_the_first_step_is_an_error():
    group = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
    with pytest.raises(NonFiniteError):
        train({"problem": NoNumbers(), "groups": [group]})


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_baselines_diverge_too(kind):
    changes = [f'optimizer.kind="{kind}"', "optimizer.lr=1e30"]
    result = train(ADAM, overrides=changes)
    assert result.end.diverged_at is not None
    (line,) = result.end.advice
    assert "--set 'optimizer.lr=1e+29'" in line
    assert train(ADAM).end is None


def test_a_test_loss_that_overflows_is_seen_after_the_last_step():
    """One step is too few losses to judge by."""
    few = ["problem.batch_size=64", 'optimizer.kind="sgd"', "training.epochs=1"]
    result = train(ADAM, overrides=[*few, "optimizer.lr=1e38"])
    assert len(result.history.steps) == 1
    assert (result.end.reason, result.end.diverged_at) == ("the test loss is infinite", 1)
    result = train(ADAM, overrides=[*few, "optimizer.lr=1e38", "optimizer.momentum=0.9", "training.epochs=2"])
    assert (result.end.reason, result.end.diverged_at) == ("the test loss is infinite", 1)


def test_parameters_that_are_not_finite_are_told_from_test_data_that_is_not():
    class Broken(Problem):
        """Training data with a step to NaN, or test data of NaN."""

        breaks: bool

        def load(self):
            X = torch.ones(4, 1)
            train_batches = [(X, X)]
            model = nn.Sequential(nn.Linear(1, 1))
            if self.breaks:
                model[0].weight.register_hook(lambda gradient: NAN * gradient)
            return ProblemParts(model, nn.MSELoss(), train_batches, [(X, X if self.breaks else NAN * X)])

    sgd = {"training": {"epochs": 1}, "optimizer": {"kind": "sgd", "lr": 0.1}}
    assert train({"problem": Broken(breaks=True), **sgd}).end.reason == "the parameters are not finite"
    result = train({"problem": Broken(breaks=False), **sgd})
    assert math.isnan(result.metrics["test_loss"])
    assert result.end is None


def test_a_run_that_ends_far_above_its_first_loss_has_diverged():
    """It came there in its first steps, before there was a reference, and stays there."""
    losses = iter([1.0, 20.0, 30.0, 40.0, 35.0, 35.0, 36.0, 34.0])

    class Steady(Problem):
        def load(self):
            X = torch.ones(1, 1)
            batches = [(X, X)] * 8
            return ProblemParts(nn.Linear(1, 1), Told(), batches, batches)

    class Told(nn.Module):
        """A loss whose values are given, in training."""

        reduction = "mean"

        def forward(self, outputs, targets):
            told = next(losses) if outputs.requires_grad else 1.0
            return 0 * outputs.sum() + told

    result = train({"problem": Steady(), "training": {"epochs": 1}, "optimizer": {"kind": "sgd", "lr": 0.1}})
    assert result.end.diverged_at == 2
    assert result.end.reason.startswith("the training loss is 28.9 in the end, and was 1 at first")


def step(number, **figures):
    return StepEvent(step=number, epoch=1, lr=(1.0,), seconds=0.1, taken=figures.pop("taken", 1.0), **figures)


def test_advice_depends_on_what_the_steps_showed(config):
    loaded = load_config(config, ["groups.0.max_step_norm=2.0", 'step.on_increase="shorten"'])
    steps = [step(n, loss=1.0, step_norm=0.5, clip=1.0) for n in range(3)]
    steps += [step(n, loss=10.0**n, step_norm=2.0, clip=0.25) for n in range(3, 8)]
    found = advice(steps, 5, loaded)
    assert (
        found[0] == "The limit shortened steps to 0.25 of their length, and the norm was up to 2: lower max_step_norm."
    )
    assert not any("on_increase" in line for line in found)
    adaptive = load_config(config, ['groups.0.damping={kind="levenberg-marquardt"}'])
    steps = [
        step(n, loss=1.0, damping_min=1e-6, damping_max=0.1, predicted_decrease=0.5, loss_after=0.9) for n in range(3)
    ]
    steps += [step(3, loss=1.0, damping_min=1e-8, damping_max=0.1, predicted_decrease=0.5, loss_after=90.0)]
    steps += [step(4, loss=90.0)]
    found = advice(steps, 4, adaptive)
    assert found[0].startswith("In step 3, the quadratic model predicted a decrease of 0.5, and the loss rose by 89:")
    assert 'Dampings were from 1e-08 to 0.1. Raise the small ones: damping = { kind = "clamp", lowest = 0.1' in found[1]


def test_a_run_that_diverged_is_not_resumed_from_python(config, tmp_path):
    train(config, tmp_path / "run")
    with pytest.raises(ArgumentError, match="it diverged at step"):
        train(resume=tmp_path / "run")


def test_what_was_seen_survives_an_interruption(config, tmp_path):
    whole = train(config, tmp_path / "whole")
    seen = []
    first = train(config, tmp_path / "parts", on_event=seen.append, should_stop=lambda: len(seen) == 3)
    assert not first.finished
    assert train(resume=tmp_path / "parts").end == whole.end
