"""Divergence: what counts as such, the warning in a loop of one's own, and runs that stop because of it."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ddn_core import DirectionalDampedNewton
from ddn_core.errors import DivergenceWarning
from ddn_core.optim.divergence import DivergenceWatch

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
