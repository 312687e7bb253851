"""Random models, composed of many kinds of operations: each gives the twin's GGN, or is refused with the reason."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.engine.any_model import Problem, engine_or_refusal, twin
from tests.engine.operations import OPERATIONS, Program
from tests.profiles import examples

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch.func itself calls it

LOSSES = {
    "cross-entropy": F.cross_entropy,
    "mse": lambda outputs, targets: F.mse_loss(outputs, F.one_hot(targets, outputs.shape[1]).to(outputs)),
    "bce": lambda outputs, targets: F.binary_cross_entropy_with_logits(
        outputs, F.one_hot(targets, outputs.shape[1]).to(outputs)
    ),
}


def data(seed, samples, width, outputs):
    """Return inputs, a selection of samples for the operations that use one, and targets."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 2, width, generator=generator, dtype=torch.float64)
    order = torch.randperm(samples, generator=generator)
    return (x, order), torch.randint(0, outputs, (samples,), generator=generator)


def assert_like_twin(problem, may_be_refused):
    """Compare the engine with the twin; return whether there was something to compare."""
    expected = twin(replace(problem, model=copy.deepcopy(problem.model)))
    if not bool(torch.isfinite(expected.ggn).all()) or float(expected.ggn.norm()) > 1e12:
        return False
    actual = engine_or_refusal(problem)
    if isinstance(actual, str):
        assert may_be_refused, actual
        event("refused: " + actual[:60])
        return False
    for ours, theirs in ((actual.blocks, expected.blocks), (actual.gradient, expected.gradient)):
        assert float((ours - theirs).norm()) <= 1e-9 * float(theirs.norm()) + 1e-13
    return float(expected.ggn.norm()) > 1e-9


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_alone(name):
    """Parameters lie before the operation and behind it, and in the operation itself."""
    program = Program([(name, 3), ("linear", 4), ("softplus", 5)], width=3, outputs=3, seed=0, sharing=0.0)
    inputs, targets = data(1, 4, 3, 3)
    assert assert_like_twin(Problem(program, inputs, targets), may_be_refused=False)


def test_few_compositions_are_refused():
    """Among the compositions of eight operations that a fixed seed draws."""
    chooser, compared = random.Random(0), 0
    for seed in range(12):
        steps = [(name, seed) for name in chooser.sample(sorted(OPERATIONS), 8)]
        inputs, targets = data(seed, 4, 3, 3)
        compared += assert_like_twin(Problem(Program(steps, 3, 3, seed), inputs, targets), may_be_refused=True)
    assert compared >= 10


@st.composite
def problems(draw, fewest=1, most=14):
    """A random program with two batches: the engine may keep a plan of the first for the second."""
    steps = draw(
        st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 99)), min_size=fewest, max_size=most)
    )
    samples, width, outputs = draw(st.integers(3, 4)), draw(st.integers(1, 4)), draw(st.integers(2, 4))
    program = Program(steps, width, outputs, seed=draw(st.integers(0, 999)))
    loss = LOSSES[draw(st.sampled_from(sorted(LOSSES)))]
    batches = [data(draw(st.integers(0, 999)), samples, width, outputs) for _ in range(2)]
    return [Problem(program, inputs, targets, loss, samples) for inputs, targets in batches]


@examples(25)
@given(problems())
def test_random_graphs(batches):
    for problem in batches:
        problem.model.zero_grad()
        assert_like_twin(problem, may_be_refused=True)


@pytest.mark.slow
@examples(5)
@given(problems(fewest=40, most=50))
def test_long_random_graphs(batches):
    for problem in batches:
        problem.model.zero_grad()
        assert_like_twin(problem, may_be_refused=True)
