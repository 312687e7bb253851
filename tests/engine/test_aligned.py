"""Curvature along the gradients: a special case of the GGN, its extremes, sub-samples, and the number of passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddn_core import DirectionalDampedNewton, curvature
from ddn_core.engine import GroupCurvature, capture_loss
from ddn_core.engine.capture import carried
from ddn_core.errors import ArgumentError
from tests.engine.any_model import Problem, aligned_twin, engine, error, twin

N, D = 6, 3


def _problem(outputs, loss, targets, dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 5), nn.Tanh(), nn.Linear(5, outputs))
    return Problem(model, (torch.randn(N, D),), targets, loss, samples=N).to(dtype)


@pytest.mark.parametrize(
    ("outputs", "loss", "targets"),
    [
        (1, F.mse_loss, torch.linspace(-1, 1, N)[:, None]),
        (1, F.binary_cross_entropy_with_logits, torch.linspace(0, 1, N)[:, None]),
        (2, F.cross_entropy, torch.arange(N) % 2),
    ],
)
def test_with_one_output_or_two_classes_it_is_the_ggn(outputs, loss, targets):
    problem = _problem(outputs, loss, targets)
    assert error(engine(problem, kind="ggn-aligned").ggn, twin(problem).ggn) < 1e-12


def test_with_three_classes_it_is_not():
    problem = _problem(3, F.cross_entropy, torch.arange(N) % 3)
    assert error(engine(problem, kind="ggn-aligned").ggn, twin(problem).ggn) > 0.1


def test_a_sample_without_gradient_has_no_column():
    problem = _problem(2, F.mse_loss, torch.zeros(N, 2))
    outputs = problem.outputs().detach()
    targets = outputs + torch.arange(N)[:, None]
    for passes in (1, 3):
        actual = engine(replace(problem, targets=targets), kind="ggn-aligned", passes=passes)
        assert not actual.blocks[0].any()
        assert error(actual.blocks, aligned_twin(replace(problem, targets=targets)).blocks) < 1e-12


@pytest.mark.parametrize("gap", [20.0, 60.0, 120.0, 300.0])
def test_confident_mistakes_keep_their_gradient_in_float32(gap):
    def loss(outputs, targets):
        return F.cross_entropy(outputs * gap, targets)

    problem = _problem(3, loss, torch.arange(N) % 3)
    expected = aligned_twin(problem)
    actual = engine(problem.to(torch.float32), kind="ggn-aligned")
    assert error(actual.gradient, expected.gradient) < 1e-5
    assert torch.isfinite(actual.ggn).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_the_scale_of_the_loss_is_free_in_float32(scale):
    problem = _problem(3, F.cross_entropy, torch.arange(N) % 3)
    expected = aligned_twin(problem)
    scaled = replace(problem.to(torch.float32), loss=lambda outputs, targets: scale * F.cross_entropy(outputs, targets))
    actual = engine(scaled, kind="ggn-aligned")
    assert error(actual.ggn / scale, expected.ggn) < 1e-4
    assert error(actual.gradient.double() / scale, expected.gradient) < 1e-4


@pytest.mark.parametrize("chosen", [[0, 2, 5], [3]])
@pytest.mark.parametrize("passes", [1, 3])
def test_sub_samples_of_the_curvature(chosen, passes):
    problem = _problem(3, F.cross_entropy, torch.arange(N) % 3)
    settings = {"kind": "ggn-aligned", "subsampling_ggn": chosen}
    optimizer = DirectionalDampedNewton(problem.model.parameters(), lr=1e-300, curvature=settings)
    for _ in range(passes):
        optimizer.zero_grad()
        optimizer.backward(problem.loss(problem.outputs(), problem.targets))
        evals = optimizer.directions().evals
        optimizer.step()
    blocks = aligned_twin(problem).blocks[chosen]
    expected = torch.linalg.eigvalsh(blocks.sum(0) * N / len(chosen))[-len(chosen) :]
    torch.testing.assert_close(evals, expected, rtol=1e-9, atol=0)


def test_later_passes_carry_nothing(monkeypatch):
    """The backward pass itself brings the columns, once the plan has been verified."""
    calls = []
    carry = carried.carry
    monkeypatch.setattr(carried, "carry", lambda *given: calls.append(0) or carry(*given))
    engine(_problem(3, F.cross_entropy, torch.arange(N) % 3), kind="ggn-aligned", passes=5)
    assert len(calls) == 2


def test_it_has_one_column_for_each_sample():
    problem = _problem(3, F.cross_entropy, torch.arange(N) % 3)
    parameters = problem.parameters()
    capture = capture_loss(problem.loss(problem.outputs(), problem.targets), parameters, kind="ggn-aligned")
    assert GroupCurvature.of(capture, parameters).gram.shape == (N, N)
    assert (capture.columns_per_sample, capture.outputs) == (1, 3)


def test_curvature_without_an_optimizer():
    problem = _problem(3, F.cross_entropy, torch.arange(N) % 3)
    loss = problem.loss(problem.outputs(), problem.targets)
    directions = curvature(loss, problem.parameters(), kind="ggn-aligned", retain_graph=True)
    expected = torch.linalg.eigvalsh(aligned_twin(problem).ggn)[-N:]
    torch.testing.assert_close(directions.evals, expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ArgumentError, match="draws no Monte-Carlo samples"):
        curvature(loss, problem.parameters(), kind="ggn-aligned", mc_samples=2)
    with pytest.raises(ArgumentError, match="'ggn-aligned'"):
        curvature(loss, problem.parameters(), kind="aligned")
