"""Steps from several backward passes: micro-batches, directions and derivatives from two batches, three sub-samplings."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton
from ddn_core.errors import ArgumentError, CurvatureError
from ddn_core.testing import DenseTwin, dense_twin, per_sample_ggns, per_sample_gradients

TOP = {"kind": "top-k", "k": 3}
ALL = {"kind": "all"}
CONSTANT = {"kind": "constant", "value": 0.3}
RELATIVE = {"kind": "relative", "factor": 0.1}

MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), (5,)),
    "cnn": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(6, 3)),
        (2, 6),
    ),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 3)), None),
}


def _problem(name="mlp", samples=9, loss="cross-entropy", reduction="mean"):
    torch.manual_seed(1)
    make, shape = MODELS[name]
    model = make().double()
    inputs = torch.randint(0, 7, (samples, 4)) if shape is None else torch.randn(samples, *shape, dtype=torch.float64)
    if loss == "mse":
        return model, nn.MSELoss(reduction=reduction), inputs, torch.randn(samples, 3, dtype=torch.float64)
    return model, nn.CrossEntropyLoss(reduction=reduction), inputs, torch.randint(0, 3, (samples,))


def _groups(criterion, damping=CONSTANT):
    return [{"params": ["*"], "criterion": criterion, "damping": damping}]


def _moved(model, make_step):
    """Return by how much a step moves the parameters of a copy of the model."""
    own = copy.deepcopy(model)
    before = parameters_to_vector(own.parameters()).detach().clone()
    optimizer = make_step(own)
    return parameters_to_vector(own.parameters()).detach() - before, optimizer


@pytest.mark.parametrize("curvature", [{}, {"subsampling_grad": [0]}, {"subsampling_lambdas": [1, 0]}], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("criterion", [TOP, ALL], ids=["top", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_micro_batches_make_the_step_of_the_whole_batch(name, criterion, reduction, curvature):
    model, loss_function, inputs, targets = _problem(name, reduction=reduction)
    sizes = [2, 4, 3]
    starts = [0, 2, 6]
    whole = {key: [start + index for start in starts for index in value] for key, value in curvature.items()}
    if reduction == "mean" and curvature:
        sizes, starts = [3, 3, 3], [0, 3, 6]  # sub-samples are means of their batch: equal shares
        whole = {key: [start + index for start in starts for index in value] for key, value in curvature.items()}

    def one(own):
        optimizer = DirectionalDampedNewton(own.named_parameters(), _groups(criterion), curvature=whole)
        with optimizer.curvature():
            loss_function(own(inputs), targets).backward()
        optimizer.step()
        return optimizer

    def many(own):
        optimizer = DirectionalDampedNewton(own.named_parameters(), _groups(criterion), curvature=curvature)
        for start, size in zip(starts, sizes, strict=True):
            share = size / len(inputs) if reduction == "mean" else 1.0
            part = slice(start, start + size)
            with optimizer.curvature(accumulate=True):
                (share * loss_function(own(inputs[part]), targets[part])).backward()
        optimizer.step()
        return optimizer

    (expected, whole_optimizer), (moved, optimizer) = _moved(model, one), _moved(model, many)
    torch.testing.assert_close(moved, expected, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(optimizer.last_step[0].evals, whole_optimizer.last_step[0].evals, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["ggn", "ggn-mc"])
def test_micro_batches_carry_gammas_and_lambdas_of_every_sample(kind):
    """A damping gets the same tensors from accumulated batches as from the whole batch."""
    model, loss_function, inputs, targets = _problem()
    seen = []

    def damping(evals, evecs, gammas, lambdas):
        seen.append((evals, gammas, lambdas))
        return torch.full_like(evals, 0.3)

    curvature = {"kind": kind} | ({"mc_samples": 2, "seed": 0} if kind == "ggn-mc" else {})
    own = copy.deepcopy(model)
    optimizer = DirectionalDampedNewton(own.named_parameters(), _groups(ALL, damping), curvature=curvature)
    for part in (slice(0, 3), slice(3, 9)):
        share = len(inputs[part]) / len(inputs)
        with optimizer.curvature(accumulate=True):
            (share * nn.CrossEntropyLoss()(own(inputs[part]), targets[part])).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in own.parameters()])
    vectors = None
    optimizer.step()
    ((evals, gammas, lambdas),) = seen
    assert gammas.shape == (9, len(evals))
    torch.testing.assert_close(lambdas.mean(0), evals)
    if kind == "ggn":
        twin = dense_twin(model, loss_function, inputs, targets)
        vectors = twin.vectors[:, -len(evals) :]
        torch.testing.assert_close(gammas.abs(), (twin.gammas[:, -len(evals) :]).abs(), rtol=1e-5, atol=1e-7)
    assert float(gammas.mean(0).norm()) <= float(gradient.norm()) * (1 + 1e-9)
    if vectors is not None:
        torch.testing.assert_close(gammas.mean(0).abs(), (gradient @ vectors).abs(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("criterion", [TOP, ALL], ids=["top", "all"])
@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
@pytest.mark.parametrize("name", MODELS)
def test_directions_from_one_batch_and_derivatives_from_another(name, loss, criterion):
    model, loss_function, inputs, targets = _problem(name, loss=loss)
    first, second = slice(0, 5), slice(5, 9)
    twin = dense_twin(model, loss_function, inputs[first], targets[first])
    count = 3 if criterion is TOP else int((twin.evals > 1e-12 * twin.evals.max()).sum())
    vectors = twin.vectors[:, -count:]
    gammas = per_sample_gradients(model, loss_function, inputs[second], targets[second]).mean(0) @ vectors
    ggns = per_sample_ggns(model, loss_function, inputs[second], targets[second])
    lambdas = torch.einsum("pk,npq,qk->nk", vectors, ggns, vectors).mean(0)
    expected = vectors @ (-gammas / (lambdas + 0.3))

    def step(own):
        optimizer = DirectionalDampedNewton(own.named_parameters(), _groups(criterion))
        with optimizer.curvature("directions"):
            loss_function(own(inputs[first]), targets[first]).backward()
        optimizer.zero_grad()
        with optimizer.curvature("derivatives"):
            loss_function(own(inputs[second]), targets[second]).backward()
        optimizer.step()
        return optimizer

    moved, optimizer = _moved(model, step)
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(optimizer.last_step[0].evals, twin.evals[-count:], rtol=1e-7, atol=1e-10)


@cache
def _dense(name, reduction):
    """Return a problem with the dense gradients and GGNs of its samples."""
    problem = _problem(name, reduction=reduction)
    return problem, per_sample_gradients(*problem), per_sample_ggns(*problem)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("grad", [None, [0, 1], [7, 2, 8]], ids=str)
@pytest.mark.parametrize("lambdas", [None, [0], [5, 6, 3]], ids=str)
@pytest.mark.parametrize("ggn", [None, [0, 1, 2, 3], [8, 0]], ids=str)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_three_independent_sub_samplings(name, ggn, lambdas, grad, reduction):
    (model, loss_function, inputs, targets), gradients, ggns = _dense(name, reduction)
    curvature = {"subsampling_grad": grad, "subsampling_ggn": ggn, "subsampling_lambdas": lambdas}
    every = list(range(len(inputs)))
    vectors = DenseTwin.of(gradients, ggns[ggn or every], reduction).vectors[:, -3:]
    reduce = torch.mean if reduction == "mean" else torch.sum
    gradients, ggns = gradients[grad or every], ggns[lambdas or ggn or every]
    curvatures = torch.einsum("pk,npq,qk->nk", vectors, ggns, vectors)
    expected = vectors @ (-reduce(gradients @ vectors, 0) / (reduce(curvatures, 0) + 0.3))
    seen = []

    def damping(evals, evecs, gammas, lambdas):
        seen.append((gammas, lambdas))
        return torch.full_like(evals, 0.3)

    def step(own):
        optimizer = DirectionalDampedNewton(own.named_parameters(), _groups(TOP, damping), curvature=curvature)
        with optimizer.curvature():
            loss_function(own(inputs), targets).backward()
        optimizer.step()
        return optimizer

    moved, _ = _moved(model, step)
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(seen[0][0].abs(), (gradients @ vectors).abs(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(seen[0][1], curvatures, rtol=1e-6, atol=1e-8)


def test_curvature_of_the_batch_that_chose_the_directions_is_biased_upward():
    """The effect that makes other samples worthwhile (Tatzel et al. 2025): on new samples, the curvature is smaller."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10), nn.Tanh(), nn.Linear(10, 3)).double()
    inputs, targets = torch.randn(60, 20, dtype=torch.float64), torch.randint(0, 3, (60,))
    means = []
    for lambdas in (None, list(range(30, 60))):
        seen = []
        curvature = {"subsampling_ggn": list(range(30)), "subsampling_lambdas": lambdas}
        optimizer = DirectionalDampedNewton(
            model.named_parameters(),
            _groups({"kind": "top-k", "k": 10}, lambda e, u, g, c, seen=seen: seen.append(c) or torch.ones_like(e)),
            lr=0.0,
            curvature=curvature,
        )
        with optimizer.curvature():
            nn.CrossEntropyLoss()(model(inputs), targets).backward()
        optimizer.step()
        means.append(float(seen[0].mean()))
    assert means[1] < 0.9 * means[0]


def test_what_does_not_fit_together_is_refused():
    model, loss_function, inputs, targets = _problem()
    optimizer = DirectionalDampedNewton(model.named_parameters(), _groups(TOP))
    before = parameters_to_vector(model.parameters()).detach().clone()
    wrong_part = pytest.raises(ArgumentError, match=r"purpose is 'both'. Use one of 'all', 'directions', 'derivatives'")
    with wrong_part, optimizer.curvature("both"):
        pass
    with optimizer.curvature("derivatives"):
        loss_function(model(inputs), targets).backward()
    with pytest.raises(CurvatureError, match="needs a curvature pass for the directions"):
        optimizer.step()
    with optimizer.curvature(accumulate=True):
        loss_function(model(inputs), targets).backward()
    with optimizer.curvature(accumulate=True):
        nn.CrossEntropyLoss(reduction="sum")(model(inputs), targets).backward()
    with pytest.raises(CurvatureError, match=r"differ in their reduction. Use the same model"):
        optimizer.step()
    torch.testing.assert_close(parameters_to_vector(model.parameters()).detach(), before, rtol=0, atol=0)


def test_the_loss_of_micro_batches_is_that_of_all_of_them_while_directions_are_reused():
    model, loss_function, inputs, targets = _problem()
    group = {"params": ["*"], "criterion": ALL, "damping": CONSTANT, "every": 3}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group])
    for _ in range(3):
        expected = float(loss_function(model(inputs), targets).detach())
        optimizer.zero_grad()
        for part in (slice(0, 3), slice(3, 9)):
            optimizer.backward(len(inputs[part]) / 9 * loss_function(model(inputs[part]), targets[part]))
        assert optimizer.step() == pytest.approx(expected, rel=1e-12)
