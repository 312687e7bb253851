"""Rank-deficient, degenerate and empty cases: never NaN, and right where there is something to be right about."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from backpack import backpack, extend
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewtonComputation
from ddn_core.engine.spectrum import eigendecompose
from ddn_core.errors import CurvatureError, NonFiniteError
from ddn_core.testing import dense_ggn, dense_twin, per_sample_gradients
from tests.engine.cases import group_of, make_problem, run
from tests.profiles import examples


def _all(evals):
    return list(range(len(evals)))


def _step(model, loss_function, inputs, targets, damping, criterion, **settings):
    computation = DirectionalDampedNewtonComputation(**settings)
    model, loss_function = extend(model), extend(loss_function)
    group = {"params": list(model.parameters()), "criterion": criterion, "damping": damping}
    loss = loss_function(model(inputs), targets)
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])):
        loss.backward()
    return computation.get_result(group), computation.get_directions(group)


def _constant(value):
    return {"kind": "constant", "value": value}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_undamped_step_solves_least_squares(dtype, reduction):
    """On a linear model with MSE, the undamped Newton step with all directions reaches the minimiser."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(30, 6, dtype=dtype), torch.randn(30, 2, dtype=dtype)
    model = nn.Sequential(nn.Linear(6, 2)).to(dtype)
    step, _ = _step(model, nn.MSELoss(reduction=reduction), inputs, targets, _constant(0.0), {"kind": "all"})
    design = torch.cat([inputs, torch.ones(30, 1, dtype=dtype)], 1).double()
    solution = torch.linalg.lstsq(design, targets.double()).solution
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    reached = torch.cat([(model[0].weight + step[0]).T, (model[0].bias + step[1])[None]])
    torch.testing.assert_close(reached.detach().double(), solution, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_minimum_norm_when_underdetermined(dtype):
    """With more parameters than data the undamped step is the shortest one that fits the data."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(3, 8, dtype=dtype), torch.randn(3, 1, dtype=dtype)
    model = nn.Sequential(nn.Linear(8, 1, bias=False)).to(dtype)
    step, directions = _step(model, nn.MSELoss(), inputs, targets, _constant(0.0), {"kind": "all"})
    residual = targets - model(inputs).detach()
    shortest = torch.linalg.pinv(inputs.double()) @ residual.double()
    tolerance = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(step[0].double().T, shortest, rtol=tolerance, atol=tolerance)
    assert len(directions) == 3


def _degenerate(name, dtype):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)
    inputs, targets = torch.randn(6, 5, dtype=dtype), torch.randint(0, 3, (6,))
    if name == "repeated samples":
        inputs, targets = inputs[:1].repeat(6, 1), targets[:1].repeat(6)
    elif name == "dead ReLUs":
        nn.init.constant_(model[0].bias, -1e3)
    elif name == "saturated softmax":
        nn.init.constant_(model[2].weight, 0.0)
        model[2].bias.data = torch.tensor([200.0, 0.0, -200.0], dtype=dtype)
    elif name == "constant features":
        inputs[:] = 1.0
    elif name == "batch of one":
        inputs, targets = inputs[:1], targets[:1]
    elif name == "zero input":
        inputs[:] = 0.0
    elif name == "twelve orders of magnitude":
        inputs *= torch.logspace(-6, 6, 5, dtype=dtype)
        return model, inputs, torch.randn(6, 3, dtype=dtype), nn.MSELoss()
    return model, inputs, targets, nn.CrossEntropyLoss()


CASES = [
    "repeated samples",
    "dead ReLUs",
    "saturated softmax",
    "constant features",
    "batch of one",
    "zero input",
    "twelve orders of magnitude",
]


@pytest.mark.parametrize("damping", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_degenerate_problems_give_no_nan(name, dtype, damping):
    model, inputs, targets, loss_function = _degenerate(name, dtype)
    data = (model, loss_function, inputs, targets, _constant(damping), {"kind": "all"})
    if name == "saturated softmax" and dtype == torch.float32 and damping == 0:
        with pytest.raises(NonFiniteError, match=r"the step has NaN or infinite entries\. Damp more"):
            _step(*data)
        return  # curvatures of 1e-35 with gradients of 1: an undamped step has no number in float32
    step, directions = _step(*data)
    assert len(directions) > 0
    assert all(bool(torch.isfinite(part).all()) for part in step)
    for quantity in (directions.evals, directions.gammas, directions.lambdas, directions.deltas):
        assert bool(torch.isfinite(quantity).all())
    assert bool((directions.evals > 0).all())


@pytest.mark.parametrize("name", [name for name in CASES if name != "saturated softmax"])
def test_degenerate_problems_agree_with_the_twin(name):
    """In float64, damped at the size of the spectrum, what is in the null space plays no role."""
    model, inputs, targets, loss_function = _degenerate(name, torch.float64)
    twin = dense_twin(model, loss_function, inputs, targets)
    damping = 0.1 * float(twin.evals.max())
    step, _ = _step(model, loss_function, inputs, targets, _constant(damping), {"kind": "all"})
    kept = (twin.evals > 1e-13 * twin.evals.max()).nonzero()[:, 0].tolist()
    expected = twin.step(kept, damping)
    torch.testing.assert_close(parameters_to_vector(step), expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))


def test_float32_step_is_close_to_float64():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 5))
    inputs, targets = torch.randn(32, 20), torch.randint(0, 5, (32,))
    for criterion in ({"kind": "all"}, {"kind": "top-k", "k": 10}):
        single, double = (
            parameters_to_vector(
                _step(
                    copy.deepcopy(model).to(dtype),
                    nn.CrossEntropyLoss(),
                    inputs.to(dtype),
                    targets,
                    _constant(0.1),
                    criterion,
                )[0]
            ).double()
            for dtype in (torch.float32, torch.float64)
        )
        assert float((single - double).norm() / double.norm()) < 1e-4


def _mistaken(gap, dtype):
    """Return a model that is sure of class 0, by a gap between the logits; three of eight samples are of another."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([gap, 0.0, gap / 2]))
    return model.to(dtype), torch.randn(8, 4).to(dtype), torch.tensor([1, 0, 0, 2, 1, 0, 0, 0])


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("gap", [5.0, 50.0, 104.0, 150.0, 300.0])
def test_a_confident_mistake_keeps_its_direction_in_float32(gap, damping):
    """Above a gap of 104, the probability of the true class is zero in float32; the sample that is most wrong counts.

    The largest error that was seen is 3e-7, and that of float64 against dense matrices 8e-16.
    """
    steps = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(3)
        model, inputs, targets = _mistaken(gap, dtype)
        step, _ = _step(model, nn.CrossEntropyLoss(), inputs, targets, _constant(damping), {"kind": "all"})
        steps.append(parameters_to_vector(step).double())
    single, double = steps
    ggn = dense_ggn(model, nn.CrossEntropyLoss(), inputs, targets)
    gradient = per_sample_gradients(model, nn.CrossEntropyLoss(), inputs, targets).mean(0)
    expected = -torch.linalg.solve(ggn + damping * torch.eye(len(ggn), dtype=torch.float64), gradient)
    assert float((double - expected).norm()) < 1e-12 * float(expected.norm())
    assert float((single - double).norm()) < 1e-5 * float(double.norm())


def test_plain_criterion_sees_all_eigenvalues_and_null_ones_are_dropped_with_one_warning():
    problem = make_problem("mlp-relu", "cross-entropy", "mean")  # softmax: one eigenvalue in three is zero
    names = [name for name, _ in problem.model.named_parameters()]
    seen = []

    def everything(evals):
        seen.append(evals)
        return list(range(len(evals)))

    group = group_of(problem, names, everything, _constant(1.0))
    with pytest.warns(UserWarning, match=r"numerically zero.*dropped.*warn_small_eigvals") as record:
        computation = run(problem, [group])
    assert len(record) == 1
    assert seen[0].shape == (12,)
    assert bool((seen[0].diff() >= 0).all())
    directions = computation.get_directions(group)
    assert 0 < len(directions) <= 8
    assert torch.equal(directions.evals, seen[0][-len(directions) :])
    assert all(bool(torch.isfinite(part).all()) for part in computation.get_result(group))


def test_warning_is_silenced_by_zero_and_absent_when_nothing_is_dropped():
    problem = make_problem("mlp-relu", "cross-entropy", "mean")
    names = [name for name, _ in problem.model.named_parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        every = group_of(problem, names, _all, _constant(1.0))
        directions = run(problem, [every], warn_small_eigvals=0).get_directions(every)
        assert 0 < len(directions) < len(directions.all_evals)  # something was dropped
        last = group_of(problem, names, lambda evals: [len(evals) - 1], _constant(1.0))
        assert len(run(problem, [last]).get_directions(last)) == 1


@pytest.mark.parametrize(
    "criterion", [lambda evals: [], {"kind": "threshold", "value": 1e9}], ids=["plain", "threshold"]
)
def test_empty_selection_gives_a_zero_step(criterion):
    problem = make_problem("mlp-relu", "mse", "mean")
    names = [name for name, _ in problem.model.named_parameters()]
    group = group_of(problem, names, criterion, _constant(1.0))
    computation = run(problem, [group])
    assert all(
        not part.any() and part.shape == p.shape
        for part, p in zip(computation.get_result(group), group["params"], strict=True)
    )
    directions = computation.get_directions(group)
    assert directions.gammas.shape == directions.lambdas.shape == (4, 0)
    assert directions.deltas.shape == (0,)


def test_infinite_damping_means_no_move_along_the_direction():
    problem = make_problem("mlp-relu", "mse", "mean")
    names = [name for name, _ in problem.model.named_parameters()]

    def block_the_last(evals, evecs, gammas, lambdas):
        deltas = torch.ones_like(evals)
        deltas[-1] = float("inf")
        return deltas

    blocked = group_of(problem, names, {"kind": "top-k", "k": 3}, block_the_last)
    computation = run(problem, [blocked])
    directions = computation.get_directions(blocked)
    assert directions.coefficients[-1] == 0
    last = torch.cat([vector[-1].flatten() for vector in directions.eigenvectors()])
    step = parameters_to_vector(computation.get_result(blocked))
    assert abs(float(last @ step)) < 1e-12
    assert float(step.norm()) > 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_a_constant_times_the_loss_is_accounted_for(scale, reduction):
    problem = make_problem("mlp-relu", "cross-entropy", reduction)
    names = [name for name, _ in problem.model.named_parameters()]
    plain, scaled = (group_of(problem, names, {"kind": "all"}, _constant(0.0)) for _ in range(2))
    before = run(problem, [plain]).get_directions(plain)
    after = run(problem, [scaled], scale=scale).get_directions(scaled)
    torch.testing.assert_close(after.evals, scale * before.evals, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(after.lambdas, scale * before.lambdas, rtol=1e-5, atol=1e-10)
    torch.testing.assert_close(after.gammas.abs(), scale * before.gammas.abs(), rtol=1e-5, atol=1e-8)
    for ours, theirs in zip(after.step(), before.step(), strict=True):  # undamped: the same step
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_zero_times_the_loss_gives_a_zero_step():
    problem = make_problem("mlp-relu", "mse", "mean")
    group = group_of(problem, [name for name, _ in problem.model.named_parameters()], {"kind": "all"}, _constant(1.0))
    computation = run(problem, [group], scale=0.0)
    assert len(computation.get_directions(group)) == 0
    assert not parameters_to_vector(computation.get_result(group)).any()


@pytest.mark.parametrize("scale", [-1.0, float("inf"), float("nan")])
def test_a_constant_that_would_spoil_the_curvature_is_refused(scale):
    problem = make_problem("mlp-relu", "mse", "mean")
    problem.model.zero_grad()
    group = group_of(problem, [name for name, _ in problem.model.named_parameters()], {"kind": "all"}, _constant(1.0))
    with pytest.raises(CurvatureError, match="multiplied by"):
        run(problem, [group], scale=scale)
    assert all(parameter.grad is None for parameter in problem.model.parameters())


@examples(30)
@given(
    size=st.integers(1, 12),
    rank=st.integers(0, 12),
    exponent=st.integers(-12, 12),
    double=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_null_space_of_random_grams(size, rank, exponent, double, seed):
    """The nonzero part of a Gram matrix of known rank has that rank, at any scale, in both dtypes."""
    dtype = torch.float64 if double else torch.float32
    generator = torch.Generator().manual_seed(seed)
    rank = min(rank, size)
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q[:, :rank]
    values = 1 + torch.rand(rank, dtype=torch.float64, generator=generator)
    gram = (basis * values) @ basis.T
    gram = ((gram + gram.T) / 2 * 10.0**exponent).to(dtype)
    spectrum = eigendecompose(gram)
    assert len(spectrum.evals) == rank
    assert spectrum.evecs.shape == (size, rank)
    assert spectrum.all_evals.shape == (size,)
    torch.testing.assert_close(
        (spectrum.evecs * spectrum.evals) @ spectrum.evecs.T, gram, rtol=1e-4, atol=1e-5 * 2 * 10.0**exponent
    )


def test_overflowing_gram_is_an_error():
    with pytest.raises(CurvatureError, match="NaN or infinite"):
        eigendecompose(torch.full((2, 2), float("inf")))


def test_a_failing_solver_gets_a_second_try_in_float64(monkeypatch):
    solver, seen = torch.linalg.eigh, []

    def fails_in_float32(matrix):
        seen.append(matrix.dtype)
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")
        return solver(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", fails_in_float32)
    matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    spectrum = eigendecompose(matrix)
    assert seen == [torch.float32, torch.float64]
    torch.testing.assert_close(spectrum.evals, torch.tensor([1.0, 3.0]))
    assert spectrum.evecs.dtype == torch.float32

    def fails(matrix):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    with pytest.raises(CurvatureError, match="the eigensolver failed on a Gram matrix of 2 columns"):
        eigendecompose(matrix)


@pytest.mark.parametrize("subsampling", [None, [3, 1]])
@pytest.mark.parametrize("zeros", ["none", "weights", "relu"])
def test_dropout_in_training(zeros, subsampling):
    """With MSE the gradient lies in the span of V: a wrong mask anywhere takes it out. Zeros hide the mask."""
    torch.manual_seed(3)
    first = nn.Linear(4, 8)
    if zeros == "weights":
        nn.init.zeros_(first.weight), nn.init.zeros_(first.bias)
    layers = [
        first,
        *([nn.ReLU()] if zeros == "relu" else []),
        nn.Dropout(0.4),
        nn.Linear(8, 5),
        nn.Tanh(),
        nn.Linear(5, 2),
    ]
    model = nn.Sequential(*layers).double().train()
    inputs, targets = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    settings = {"subsampling_grad": subsampling, "subsampling_ggn": subsampling}
    _, directions = _step(model, nn.MSELoss(), inputs, targets, _constant(1.0), {"kind": "all"}, **settings)
    assert len(directions) > 0
    vectors = torch.cat([part.flatten(1) for part in directions.eigenvectors()], dim=1)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(len(directions), dtype=torch.float64), rtol=0, atol=1e-7)
    if subsampling is None:
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        torch.testing.assert_close(directions.loss_gammas.norm(), gradient.norm())
        torch.testing.assert_close(vectors.T @ (vectors @ gradient), gradient, rtol=1e-6, atol=1e-9)


def test_dropout_in_evaluation_is_nothing():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    dropping = copy.deepcopy(nn.Sequential(plain[0], nn.Dropout(0.5), *plain[1:], nn.Dropout(0.5))).eval()
    data = (torch.rand(6, 4), torch.rand(6, 2), _constant(1.0), {"kind": "all"})
    steps = [parameters_to_vector(_step(model, nn.MSELoss(), *data)[0]) for model in (plain, dropping)]
    torch.testing.assert_close(*steps)
