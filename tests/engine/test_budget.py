"""The memory budget: smaller slices and the same step, or a refusal before anything is allocated; and what is let go."""

from __future__ import annotations

import copy
import gc
import re
import weakref

import pytest
import torch
from backpack import extend
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton
from ddn_core.engine.capture import backpropagation, memory
from ddn_core.engine.factors import ProductColumns
from ddn_core.errors import CurvatureError, MemoryBudgetError

SAMPLES = 12


def _problem():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 12, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(48, 20),
        nn.ReLU(),
        nn.Linear(20, 4),
    ).double()
    return model, torch.randn(SAMPLES, 2, 8, 8, dtype=torch.float64), torch.randint(0, 4, (SAMPLES,))


def _optimizer(model, budget, groups=None, **curvature):
    groups = groups or [{"params": ["*"], "criterion": {"kind": "top-k", "k": 5}, "damping": {"kind": "constant"}}]
    curvature = {"memory_budget": budget, **curvature}
    return DirectionalDampedNewton(extend(model).named_parameters(), groups, curvature=curvature)


def _move(model, inputs, targets, budget, **curvature):
    """Return by how much one step moves the parameters of a copy."""
    own = copy.deepcopy(model)
    before = parameters_to_vector(own.parameters()).detach().clone()
    optimizer = _optimizer(own, budget, **curvature)
    with optimizer.curvature():
        extend(nn.CrossEntropyLoss())(own(inputs), targets).backward()
    optimizer.step()
    return parameters_to_vector(own.parameters()).detach() - before


def _refusal(model, inputs, targets, budget, **curvature):
    """Return the error for a budget that is too small."""
    own = copy.deepcopy(model)
    optimizer = _optimizer(own, budget, **curvature)
    before = parameters_to_vector(own.parameters()).detach().clone()
    with pytest.raises(MemoryBudgetError) as refused, optimizer.curvature():
        extend(nn.CrossEntropyLoss())(own(inputs), targets).backward()
    plain_model = copy.deepcopy(model)
    nn.CrossEntropyLoss()(plain_model(inputs), targets).backward()
    for ours, expected in zip(own.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)  # whole, as after any backward pass
    torch.testing.assert_close(parameters_to_vector(own.parameters()).detach(), before, rtol=0, atol=0)
    with pytest.raises(CurvatureError, match="needs a curvature pass"):
        optimizer.step()
    return str(refused.value)


@pytest.mark.parametrize("curvature", [{}, {"kind": "ggn-mc", "mc_samples": 3, "seed": 0}], ids=["exact", "mc"])
def test_a_small_budget_makes_more_chunks_and_the_same_step(monkeypatch, curvature):
    model, inputs, targets = _problem()
    calls = []
    original = backpropagation.transposed_jacobian
    monkeypatch.setattr(backpropagation, "transposed_jacobian", lambda *a: calls.append(1) or original(*a))
    expected = _move(model, inputs, targets, None, **curvature)
    once = len(calls)
    needed = re.search(r"needs ([\d.]+) (k|M)B", _refusal(model, inputs, targets, 1000, **curvature))
    smallest = float(needed[1]) * {"k": 1e3, "M": 1e6}[needed[2]]
    calls.clear()
    moved = _move(model, inputs, targets, int(1.02 * smallest), **curvature)
    assert len(calls) >= 6 * once  # every sample is a chunk of its own, or more
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-12)


def test_what_the_refusal_says_would_fit_fits_and_no_more():
    model, inputs, targets = _problem()
    message = _refusal(model, inputs, targets, 100_000)
    assert "The memory budget is 100 kB" in message
    most = int(re.search(r"batches, or a subsampling_ggn, of at most (\d+) samples", message)[1])
    assert 1 <= most < SAMPLES
    _move(model, inputs[:most], targets[:most], 100_000)
    assert "The memory budget is 100 kB" in _refusal(model, inputs[: most + 1], targets[: most + 1], 100_000)
    _move(model, inputs, targets, 100_000, subsampling_ggn=list(range(most)), subsampling_grad=list(range(most)))


def test_monte_carlo_samples_that_the_refusal_names_fit():
    model, inputs, targets = _problem()
    needed = re.search(r"needs ([\d.]+) kB", _refusal(model, inputs, targets, 1000))
    budget = int(900 * float(needed[1]))
    most = int(re.search(r"mc_samples = (\d+)", _refusal(model, inputs, targets, budget))[1])
    assert bool(torch.isfinite(_move(model, inputs, targets, budget, kind="ggn-mc", mc_samples=most)).all())
    assert "What fits" in _refusal(model, inputs, targets, budget, kind="ggn-mc", mc_samples=most + 1)


def test_auto_takes_what_is_free(monkeypatch):
    model, inputs, targets = _problem()
    expected = _move(model, inputs, targets, None)
    torch.testing.assert_close(_move(model, inputs, targets, "auto"), expected, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr(memory, "_available_to_processes", lambda: 50_000)
    assert "The memory budget is 45 kB" in _refusal(model, inputs, targets, "auto")
    monkeypatch.setattr(memory, "_available_to_processes", lambda: None)  # not known: no limit
    torch.testing.assert_close(_move(model, inputs, targets, "auto"), expected, rtol=1e-9, atol=1e-12)


def test_free_memory_is_some_of_what_there_is():
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or 10**6 < free < 10**14


@pytest.mark.parametrize("criterion", [{"kind": "top-k", "k": 3}, {"kind": "all"}], ids=["top", "all"])
def test_nothing_is_held_after_a_step(monkeypatch, criterion):
    model, inputs, targets = _problem()
    kept = []
    original = ProductColumns.__init__

    def watched(self, *arguments, **settings):
        original(self, *arguments, **settings)
        kept.append(weakref.ref(self))

    monkeypatch.setattr(ProductColumns, "__init__", watched)
    optimizer = _optimizer(
        model, None, [{"params": ["*"], "criterion": criterion, "damping": {"kind": "constant", "value": 1.0}}]
    )
    loss_function = extend(nn.CrossEntropyLoss())
    with optimizer.curvature():
        loss_function(model(inputs), targets).backward()
    optimizer.step()
    gc.collect()
    assert kept
    assert all(reference() is None for reference in kept)
    assert len(optimizer.last_step[0].evals)  # what the report needs is still there


@pytest.mark.filterwarnings("ignore")  # of modules that are imported when the collector's objects are looked at
def test_200_steps_hold_no_more_than_two():
    model, inputs, targets = _problem()
    optimizer = _optimizer(model, None)
    loss_function = extend(nn.CrossEntropyLoss())

    def count_after(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            with optimizer.curvature():
                loss_function(model(inputs), targets).backward()
            optimizer.step()
        gc.collect()
        tensors = [found for found in gc.get_objects() if isinstance(found, torch.Tensor)]
        return len(tensors), sum(tensor.nbytes for tensor in tensors)

    assert count_after(200) == count_after(2)
