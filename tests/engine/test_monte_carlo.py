"""Monte-Carlo estimates of the GGN: right on average, seedable, of any number of samples."""

from __future__ import annotations

import pytest
import torch

from ddn_core.engine import capture_loss
from tests.engine.cases import LOSSES, group_of, make_problem, run

ALL = {"kind": "all"}
DAMPING = {"kind": "constant", "value": 0.5}


def _names(problem):
    return [name for name, _ in problem.model.named_parameters()]


def _ggn(problem, mc_samples, seed, subsampling_ggn=None):
    """Return the GGN that V stands for, V Vᵀ, from the factors themselves."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    loss = problem.loss_function(problem.model(problem.inputs), problem.targets)
    settings = {"mc_samples": mc_samples, "subsampling_ggn": subsampling_ggn, "generator": generator}
    capture = capture_loss(loss, list(problem.model.parameters()), **settings)
    rows = {}
    for factor in capture.factors:
        columns = factor.root.layout.split(factor.root.formed())
        rows.update({key: part.flatten(1) for key, part in zip(factor.parameters, columns, strict=True)})
    every = torch.cat([rows[id(parameter)] for parameter in problem.model.parameters()], dim=1)
    return every.T @ every


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", ["mlp-sigmoid", "outputs-with-axes"])
def test_estimate_converges_to_the_exact_ggn(case, loss, reduction):
    problem = make_problem(case, loss, reduction)
    names = _names(problem)
    twin = problem.twin(names)
    exact = twin.vectors @ torch.diag(twin.evals) @ twin.vectors.T
    errors = []
    for mc_samples in (20, 2000):
        estimates = torch.stack([_ggn(problem, mc_samples, seed) for seed in range(3)])
        errors.append(float((estimates - exact).flatten(1).norm(dim=1).mean() / exact.norm()))
    # the error falls as 1/√M: by 10 from 20 to 2000 samples, give or take the noise of three draws
    assert errors[1] < 0.08
    assert 4 < errors[0] / errors[1] < 25


def test_shapes_follow_the_number_of_samples():
    problem = make_problem("mlp-relu", "cross-entropy", "mean")
    for mc_samples in (1, 2, 7):
        group = group_of(problem, _names(problem), ALL, DAMPING)
        directions = run(problem, [group], mc_samples_ggn=mc_samples).get_directions(group)
        assert directions.evecs.shape[0] == directions.all_evals.numel() == mc_samples * 4
        assert directions.gammas.shape[0] == directions.lambdas.shape[0] == 4


def test_estimate_of_a_subsample():
    problem = make_problem("mlp-sigmoid", "mse", "mean")
    names = _names(problem)
    twin = problem.twin(names, subsampling_ggn=[2, 0])
    exact = twin.vectors @ torch.diag(twin.evals) @ twin.vectors.T
    estimate = _ggn(problem, 4000, 0, subsampling_ggn=[2, 0])
    assert float((estimate - exact).norm() / exact.norm()) < 0.08


@pytest.mark.parametrize("loss", LOSSES)
def test_seed_makes_it_repeatable(loss):
    problem = make_problem("mlp-sigmoid", loss, "mean")
    first, again, other = (_ggn(problem, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_seed_leaves_torch_s_generator_alone():
    problem = make_problem("mlp-sigmoid", "mse", "mean")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    _ggn(problem, 2, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_passes_draw_anew():
    problem = make_problem("mlp-sigmoid", "mse", "mean")
    torch.manual_seed(0)
    assert not torch.equal(_ggn(problem, 1, None), _ggn(problem, 1, None))
