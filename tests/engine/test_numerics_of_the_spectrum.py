"""Eigensolvers, their fallbacks, the solve without eigenvectors, the smaller side, gammas without division.

ε is the machine precision of the dtype, λ_max the largest eigenvalue. Bounds are stated where they are checked, and are
a few times what is measured.
"""

from __future__ import annotations

import copy

import pytest
import torch
from backpack import backpack, extend
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import (
    DirectionalDampedNewton,
    DirectionalDampedNewtonComputation,
    DirectionalDerivativesComputation,
    EighComputation,
    EigvalshComputation,
)
from ddn_core.engine import (
    Choice,
    capture_loss,
    damped_newton_step,
    group_directions,
    krylov,
    predicted_decrease,
)
from ddn_core.engine.krylov import leading_eigenpairs
from ddn_core.engine.spectrum import eigendecompose
from ddn_core.errors import CurvatureError
from ddn_core.testing import dense_twin, per_sample_ggns, per_sample_gradients
from tests.engine.cases import LOSSES, Problem, cached, group_of, make_problem, run
from tests.engine.test_against_autograd import assert_group_matches_twin
from tests.profiles import examples

ALL = {"kind": "all"}
DTYPES = [torch.float32, torch.float64]


def _constant(value):
    return {"kind": "constant", "value": value}


def _difference(found, expected):
    """Return the relative difference of two tensors, or of two steps."""
    found, expected = (
        (value if isinstance(value, torch.Tensor) else parameters_to_vector(value)).double()
        for value in (found, expected)
    )
    return float((found - expected).norm() / expected.norm())


def _capture(model, loss_function, inputs, targets, scale=1.0, **settings):
    """Return what a backward pass gives, and the parameters."""
    model = copy.deepcopy(model)
    parameters = list(model.parameters())
    return capture_loss(scale * loss_function(model(inputs), targets), parameters, **settings), parameters


def _double(model, loss_function, inputs, targets):
    """Return a problem in float64, with the very numbers that it has."""
    inputs, targets = (value.double() if value.is_floating_point() else value for value in (inputs, targets))
    return copy.deepcopy(model).double(), loss_function, inputs, targets


def _in(dtype, model, loss_function, inputs, targets):
    """Return a problem in a dtype."""
    inputs, targets = (value.to(dtype) if value.is_floating_point() else value for value in (inputs, targets))
    return copy.deepcopy(model).to(dtype), loss_function, inputs, targets


# Leading eigenpairs

SPECTRA = {
    "twelve orders of magnitude": lambda size, count: torch.logspace(-12, 0, size),
    "four orders of magnitude": lambda size, count: torch.logspace(-4, 0, size),
    "a cluster": lambda size, count: torch.cat([torch.linspace(0, 0.1, size - count), 1 + 1e-6 * torch.arange(count)]),
    "equal ones": lambda size, count: torch.cat([torch.linspace(0, 0.1, size - count), torch.ones(count)]),
    "more equal ones than asked for": lambda size, count: torch.cat(
        [torch.linspace(0, 0.1, size - count - 1), torch.ones(count + 1)]
    ),
    "rank one": lambda size, count: torch.eye(size)[-1],
    "rank below the count": lambda size, count: torch.linspace(-size + max(1, count - 1), 1, size).clamp(min=0),
    "zero": lambda size, count: torch.zeros(size),
    "flat": lambda size, count: torch.linspace(1, 1.5, size),
}


def _matrix(name, size, count, dtype, seed=0, rotated=True):
    """Return a symmetric matrix with a spectrum."""
    spectrum, basis = SPECTRA[name](size, count).double(), torch.eye(size, dtype=torch.float64)
    if rotated:
        generator = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
    matrix = (basis * spectrum) @ basis.T
    return ((matrix + matrix.T) / 2).to(dtype)


def _assert_leading(matrix, evals, evecs, count):
    """Residuals, eigenvalues and orthonormality of what is not numerically zero: to 64 ε, and to 4e-12 in float64."""
    bound = 4e-12 if matrix.dtype == torch.float64 else 64 * torch.finfo(matrix.dtype).eps
    null = len(matrix) * torch.finfo(matrix.dtype).eps
    matrix, evals, evecs = matrix.double(), evals.double(), evecs.double()
    expected = torch.linalg.eigvalsh(matrix)[-count:]
    scale = float(expected[-1])
    assert evecs.shape == (len(matrix), count)
    assert bool((evals.diff() >= 0).all())
    assert float((evals - expected).abs().max()) <= bound * scale
    kept = evals > null * scale
    residuals = matrix @ evecs[:, kept] - evecs[:, kept] * evals[kept]
    assert bool((residuals.norm(dim=0) <= bound * scale).all())
    overlaps = evecs[:, kept].T @ evecs[:, kept] - torch.eye(int(kept.sum()), dtype=torch.float64)
    assert bool((overlaps.abs() <= bound).all())


@examples(30)
@given(
    name=st.sampled_from(sorted(SPECTRA)),
    size=st.integers(24, 100),
    count=st.integers(1, 6),
    exponent=st.integers(-24, 12),
    dtype=st.sampled_from(DTYPES),
    rotated=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_leading_eigenpairs_are_right_or_none(name, size, count, exponent, dtype, rotated, seed):
    matrix = _matrix(name, size, count, torch.float64, seed, rotated)
    matrix = (matrix * 10.0**exponent).to(dtype)
    found = leading_eigenpairs(matrix, count)
    if found is not None:
        _assert_leading(matrix, *found, count)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in SPECTRA if name != "flat"])
def test_leading_eigenpairs_that_stand_out_converge(name, dtype):
    matrix = _matrix(name, 160, 5, dtype)
    found = leading_eigenpairs(matrix, 5)
    assert found is not None
    _assert_leading(matrix, *found, 5)


@pytest.mark.parametrize("scale", [2.0**-80, 2.0**60], ids=["tiny", "huge"])
@pytest.mark.parametrize("name", ["flat", "four orders of magnitude"])
def test_leading_eigenpairs_do_not_depend_on_the_unit_of_the_loss(name, scale):
    """Squares of residuals of a tiny matrix vanish in float32, and those of a huge one overflow."""
    matrix = _matrix(name, 240, 5, torch.float32)
    expected, found = leading_eigenpairs(matrix, 5), leading_eigenpairs(matrix * scale, 5)
    assert (found is None) == (expected is None)
    if found is not None:
        assert torch.equal(found[0], expected[0] * scale)
        assert torch.equal(found[1], expected[1])


def test_leading_eigenpairs_that_do_not_converge_come_from_the_full_decomposition(monkeypatch):
    monkeypatch.setattr(krylov, "RESTARTS", 0)
    monkeypatch.setattr(krylov, "BLOCKS", 2)
    monkeypatch.setattr("ddn_core.engine.spectrum.is_worthwhile", lambda columns, count: True)
    matrix = _matrix("flat", 60, 4, torch.float64)
    assert leading_eigenpairs(matrix, 4) is None
    spectrum = eigendecompose(matrix, 4)
    assert spectrum.fallbacks == ("eigh",)
    assert spectrum.evecs.shape == (60, 4)
    torch.testing.assert_close(spectrum.evals, torch.linspace(1, 1.5, 60).double()[-4:])
    assert spectrum.all_evals.shape == (60,)


@cached
def _classifier(samples=30):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4))
    return model, nn.CrossEntropyLoss(), torch.randn(samples, 20), torch.randint(0, 4, (samples,))


def _top(count, dtype, damping=0.1, samples=30):
    """Return the leading directions of the classifier, damped, and its parameters."""
    capture, parameters = _capture(*_in(dtype, *_classifier(samples)))
    choice = Choice(
        lambda found: torch.arange(len(found)), lambda found: torch.full_like(found.evals, damping), lambda _: count
    )
    return damped_newton_step(capture, parameters, choice)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_top_k_step_is_the_same_with_the_leading_pairs_as_with_all(dtype, bound, monkeypatch):
    steps = []
    for leading in (True, False):
        monkeypatch.setattr("ddn_core.engine.spectrum.is_worthwhile", lambda columns, count, leading=leading: leading)
        step = _top(5, dtype)
        assert step.directions.fallbacks == ()
        assert (len(step.directions.all_evals) == 5) == leading
        steps.append(step)
    assert _difference(steps[0].moves, steps[1].moves) < bound
    assert _difference(steps[0].directions.evals, steps[1].directions.evals) < bound
    assert _difference(steps[0].directions.evecs, steps[1].directions.evecs) < 10 * bound  # the signs, too
    assert _difference(steps[0].directions.gammas, steps[1].directions.gammas) < 10 * bound


def test_a_large_gram_matrix_is_not_decomposed_for_its_leading_pairs(monkeypatch):
    solver, sizes = torch.linalg.eigh, []
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix, **kw: sizes.append(len(matrix)) or solver(matrix, **kw))
    model = nn.Sequential(nn.Linear(20, 80), nn.Tanh(), nn.Linear(80, 4))  # more parameters than columns
    inputs, targets = torch.randn(160, 20), torch.randint(0, 4, (160,))
    capture, parameters = _capture(model, nn.CrossEntropyLoss(), inputs, targets)
    directions = group_directions(capture, parameters, largest=lambda _: 5)
    assert directions.fallbacks == ()
    assert len(directions) == 5
    assert capture.columns == 640
    assert sizes
    assert max(sizes) < 320


# Solvers that fail


def _failing(monkeypatch, **failures):
    """Make `eigh` fail so many times in a dtype."""
    solver, left = torch.linalg.eigh, dict(failures)

    def fails(matrix, **kw):
        name = str(matrix.dtype).removeprefix("torch.")
        if left.get(name, 0) > 0:
            left[name] -= 1
            raise torch.linalg.LinAlgError("did not converge")
        return solver(matrix, **kw)

    monkeypatch.setattr(torch.linalg, "eigh", fails)


def _results(dtype, group):
    """Return the step of a computation, and the fallbacks that it tells."""
    model, loss_function, inputs, targets = _in(dtype, *_classifier())
    model, loss_function = extend(model), extend(copy.deepcopy(loss_function))
    group = {"params": list(model.parameters()), **group}
    computation = DirectionalDampedNewtonComputation()
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])):
        loss_function(model(inputs), targets).backward()
    fallbacks = computation.get_directions(group).fallbacks
    assert computation.get_fallbacks(group) == fallbacks
    return computation.get_result(group), fallbacks


def _optimizer_step(dtype, table):
    """Return the optimizer after a step, and its model."""
    model, loss_function, inputs, targets = _in(dtype, *_classifier())
    optimizer = DirectionalDampedNewton(model.named_parameters(), [{"params": ["*"], **table}])
    with optimizer.curvature():
        loss_function(model(inputs), targets).backward()
    return optimizer, model


RELATIVE = {"criterion": ALL, "damping": {"kind": "relative", "fraction": 0.1}}
LEADING = {"criterion": {"kind": "top-k", "k": 5}, "damping": _constant(0.1)}
FAILURES = {
    "float32": (torch.float32, {"float32": 99}, ("float64",)),
    "float32 and once float64": (torch.float32, {"float32": 99, "float64": 1}, ("float64", "jitter")),
    "once float64": (torch.float64, {"float64": 1}, ("float64",)),
    "twice float64": (torch.float64, {"float64": 2}, ("float64", "jitter")),
}


@pytest.mark.parametrize("name", FAILURES)
def test_fallbacks_of_the_eigensolver_are_right_and_told_in_order(name, monkeypatch):
    """The step of the fallback is that of the solver itself to 1e-5, and to 1e-9 in float64."""
    dtype, failures, fallbacks = FAILURES[name]
    expected, none = _results(dtype, RELATIVE)
    assert none == ()
    _failing(monkeypatch, **failures)
    step, told = _results(dtype, RELATIVE)
    assert told == fallbacks
    assert _difference(step, expected) < (1e-5 if dtype == torch.float32 else 1e-9)
    _failing(monkeypatch, **failures)
    optimizer, model = _optimizer_step(dtype, RELATIVE)
    before = parameters_to_vector(model.parameters()).detach().clone()
    optimizer.step()
    assert optimizer.last_step[0].fallbacks == fallbacks
    assert _difference(parameters_to_vector(model.parameters()).detach() - before, expected) < 1e-5


def test_a_failure_within_the_leading_pairs_goes_through_all_fallbacks(monkeypatch):
    expected, _ = _results(torch.float32, LEADING)
    monkeypatch.setattr("ddn_core.engine.spectrum.is_worthwhile", lambda columns, count: True)
    assert _results(torch.float32, LEADING)[1] == ()
    _failing(monkeypatch, float32=99)
    step, told = _results(torch.float32, LEADING)
    assert told == ("eigh", "float64")
    assert _difference(step, expected) < 1e-5


def test_fallbacks_of_a_solved_step_are_told_when_its_spectrum_is_read(monkeypatch):
    optimizer, _ = _optimizer_step(torch.float32, {"criterion": ALL, "damping": _constant(1.0)})
    optimizer.step()
    assert optimizer.last_step[0].uniform_damping == 1.0
    _failing(monkeypatch, float32=99)
    assert optimizer.last_step[0].fallbacks == ("float64",)


def _first_result(computation):
    """Return the first (or only) tensor of a computation's result for one group, and the fallbacks that it tells."""
    model, loss_function, inputs, targets = _classifier()
    model, loss_function = extend(copy.deepcopy(model)), extend(copy.deepcopy(loss_function))
    group = {"params": list(model.parameters()), "criterion": ALL}
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])):
        loss_function(model(inputs), targets).backward()
    result = computation.get_result(group)
    return (result if isinstance(result, torch.Tensor) else result[0]), computation.get_fallbacks(group)


@pytest.mark.parametrize("computation", [EighComputation, DirectionalDerivativesComputation])
def test_computations_tell_the_fallbacks(computation, monkeypatch):
    expected, none = _first_result(computation())
    assert none == ()
    _failing(monkeypatch, float32=99, float64=1)
    found, told = _first_result(computation())
    assert told == ("float64", "jitter")
    assert _difference(found, expected) < 1e-3


def test_eigenvalues_alone_have_the_fallbacks_too(monkeypatch):

    def fails(matrix):
        raise torch.linalg.LinAlgError("did not converge")

    expected, none = _first_result(EigvalshComputation())
    assert none == ()
    monkeypatch.setattr(torch.linalg, "eigvalsh", fails)
    _failing(monkeypatch, float32=99, float64=1)
    found, told = _first_result(EigvalshComputation())
    assert told == ("eigh", "float64", "jitter")
    assert _difference(found, expected) < 1e-6


def test_the_last_try_is_on_a_shifted_matrix_and_the_shift_is_taken_back(monkeypatch):
    """The solver fails on the matrix itself, in any dtype: on the diagonal is then added what rounding may change."""
    solver, matrix, tries = torch.linalg.eigh, _matrix("four orders of magnitude", 40, 5, torch.float32), []
    expected = solver(matrix.double())

    def fails(given):
        tries.append(given)
        if torch.equal(given.double(), matrix.double()):
            raise torch.linalg.LinAlgError("did not converge")
        return solver(given)

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    spectrum = eigendecompose(matrix)
    assert spectrum.fallbacks == ("float64", "jitter")
    assert [given.dtype for given in tries] == [torch.float32, torch.float64, torch.float64]
    shift = float(matrix.diagonal().max()) * 2.0**-23
    added = tries[-1] - matrix.double()
    torch.testing.assert_close(added, shift * torch.eye(40, dtype=torch.float64), rtol=1e-6, atol=1e-6 * shift)
    assert float((spectrum.evals[0] - expected.eigenvalues[-len(spectrum.evals)]).abs()) < 1e-2 * shift
    assert _difference(spectrum.evals, expected.eigenvalues[-len(spectrum.evals) :]) < 1e-6


@pytest.mark.parametrize("table", [RELATIVE, LEADING], ids=["all", "top-5"])
def test_when_every_solver_fails_the_error_advises_and_nothing_moves(table, monkeypatch):
    optimizer, model = _optimizer_step(torch.float32, table)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    _failing(monkeypatch, float32=99, float64=99)
    with pytest.raises(CurvatureError, match=r"eigensolver failed .* Check the scale .* No parameter has been touched"):
        optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert optimizer.last_step == ()


def test_rounding_errors_of_the_columns_are_no_directions_of_the_smaller_side():
    """A shift of all logits is no direction; in float64 the product resolves what float32 made of it."""
    for seed in range(10):
        torch.manual_seed(seed)
        problem = (nn.Linear(3, 3), nn.CrossEntropyLoss(), torch.randn(40, 3), torch.randint(0, 3, (40,)))
        assert len(group_directions(*_capture(*problem))) == 8  # of 12 parameters, 4 of which shift


# One damping for all directions: a solve


SIDES = {
    "Gram matrix": (lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), 4, 5),
    "GGN": (lambda: nn.Sequential(nn.Linear(3, 3)), 12, 3),
}


@cached
def _damped_problem(side, loss):
    """Return a problem in float32 and, in float64, its dense GGN and gradient."""
    torch.manual_seed(0)
    make, samples, features = SIDES[side]
    make_loss, make_targets = LOSSES[loss]
    model, inputs, loss_function = make(), torch.randn(samples, features), make_loss("mean")
    problem = (model, loss_function, inputs, make_targets(model(inputs).detach()))
    doubled = _double(*problem)
    return problem, per_sample_ggns(*doubled).mean(0), per_sample_gradients(*doubled).mean(0)


def _both_ways(problem, damping):
    """Return the step with a damping by a solve (if that is possible), and along all directions."""
    capture, parameters = _capture(*problem)
    choice = (lambda found: torch.arange(len(found)), lambda found: torch.full_like(found.evals, damping))
    return tuple(
        damped_newton_step(capture, parameters, Choice(*choice, uniform_damping=lambda _, uniform=uniform: uniform))
        for uniform in (damping, None)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("damping", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("side", SIDES)
def test_solved_step_is_the_step_along_all_directions_and_the_twin_s(side, loss, damping, dtype):
    """To 8 ε (λ_max / δ + 8), for λ_k + δ has an error of ε λ_max; and to 1e-3 in float32 where that is more."""
    problem, ggn, gradient = _damped_problem(side, loss)
    solved, along = _both_ways(_in(dtype, *problem), damping)
    assert along.uniform_damping is None
    if dtype == torch.float64 or damping >= 1e-3:
        assert solved.uniform_damping == damping
    largest = float(torch.linalg.eigvalsh(ggn)[-1])
    bound = min(1e-3, 8 * torch.finfo(dtype).eps * (largest / damping + 8))
    expected = -torch.linalg.solve(ggn + damping * torch.eye(len(ggn), dtype=ggn.dtype), gradient)
    assert _difference(solved.moves, expected) < bound
    assert _difference(along.moves, expected) < bound
    assert _difference(solved.summary.norm(), expected.norm()) < bound
    assert _difference(along.summary.norm(), expected.norm()) < bound
    for lr in (1.0, 0.3):
        decrease = -(lr * gradient @ expected + 0.5 * lr**2 * expected @ ggn @ expected)
        assert _difference(predicted_decrease(solved.summary, lr), decrease) < bound
        assert _difference(predicted_decrease(along.summary, lr), decrease) < bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("side", SIDES)
def test_spectrum_of_a_solved_step_is_that_of_the_directions(side, loss, dtype):
    solved, along = _both_ways(_in(dtype, *_damped_problem(side, loss)[0]), 0.1)
    assert solved.uniform_damping == 0.1
    bound = 1e-9 if dtype == torch.float64 else 1e-5
    found, expected = solved.summary.table, along.summary.table
    for name in ("all_evals", "evals", "deltas"):
        assert getattr(found, name).shape == getattr(expected, name).shape, name
        assert _difference(getattr(found, name), getattr(expected, name)) < bound, name
    assert _difference(found.coefficients.abs(), expected.coefficients.abs()) < bound  # signs are a convention
    assert found.fallbacks == expected.fallbacks == ()
    assert expected.count <= solved.summary.count <= min(len(expected.all_evals), sum(map(torch.numel, solved.moves)))
    read = solved.directions
    assert _difference(read.coefficients, expected.coefficients) < bound
    assert _difference(read.step(), along.moves) < bound


@pytest.mark.parametrize("damping", [0.0, 1e-9])
@pytest.mark.parametrize("side", SIDES)
def test_a_damping_below_rounding_is_left_to_the_eigenvectors(side, damping):
    problem, ggn, gradient = _damped_problem(side, "cross-entropy")
    solved, along = _both_ways(problem, damping)
    assert solved.uniform_damping is None
    assert _difference(solved.moves, along.moves) == 0
    evals, vectors = torch.linalg.eigh(ggn)
    vectors = vectors[:, evals > 1e-10 * evals.max()]
    expected = -vectors @ torch.linalg.solve(vectors.T @ ggn @ vectors, vectors.T @ gradient)
    assert _difference(solved.moves, expected) < 1e-3


@pytest.mark.parametrize("damping", [1e-12, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("side", SIDES)
def test_a_damping_below_rounding_is_raised_to_it_if_it_may_be(side, loss, damping):
    """The step is the dense one for the damping that it reports; a larger damping is not changed."""
    problem, ggn, gradient = _damped_problem(side, loss)
    capture, parameters = _capture(*problem)
    choice = Choice(
        lambda found: torch.arange(len(found)),
        lambda found: torch.full_like(found.evals, damping),
        uniform_damping=lambda _: damping,
        may_be_raised=True,
    )
    solved = damped_newton_step(capture, parameters, choice)
    rows = min(len(ggn), capture.columns)
    rounding = 4 * rows**0.5 * torch.finfo(torch.float32).eps * float(torch.trace(ggn))
    assert solved.uniform_damping == (damping if damping == 1.0 else pytest.approx(rounding))
    shifted = ggn + solved.uniform_damping * torch.eye(len(ggn), dtype=ggn.dtype)
    assert _difference(solved.moves, -torch.linalg.solve(shifted, gradient)) < 4e-3
    assert solved.summary.table.deltas.unique().tolist() == pytest.approx([solved.uniform_damping])


@pytest.mark.parametrize("side", SIDES)
def test_a_solved_step_decomposes_nothing_unless_it_is_read(side, monkeypatch):
    model, loss_function, inputs, targets = _damped_problem(side, "mse")[0]
    model = copy.deepcopy(model)

    def refuse(matrix, **settings):
        raise AssertionError("decomposed")

    for name in ("eigh", "eigvalsh", "svd", "qr"):
        monkeypatch.setattr(torch.linalg, name, refuse)
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=1.0)
    with optimizer.curvature():
        loss_function(model(inputs), targets).backward()
    optimizer.step()
    (report,) = optimizer.last_step
    assert report.uniform_damping == 1.0
    assert report.damping_range() == (1.0, 1.0)
    assert float(report.step_norm) > 0
    assert float(report.predicted_decrease) > 0
    assert report.directions == min(report._summary.count, 36)
    with pytest.raises(AssertionError, match="decomposed"):
        _ = report.evals


# The smaller side


@cached
def _curve_fit():
    """Return a model of 61 parameters on 200 samples, in float64, with its derivatives."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    inputs = torch.linspace(-2, 2, 200, dtype=torch.float64)[:, None]
    data = (model, nn.MSELoss(), inputs, torch.sin(2 * inputs))
    return Problem(*data, per_sample_gradients(*data), per_sample_ggns(*data))


BIASES = {"criterion": ALL, "damping": _constant(0.5)}


def _smaller(name):
    """Return a problem and the names of a group with fewer parameters than columns."""
    if name == "61 parameters":
        problem = _curve_fit()
        return problem, [name for name, _ in problem.model.named_parameters()]
    problem = make_problem({"biases": "mlp-relu", "biases of convolutions": "conv2d"}[name], "cross-entropy", "mean")
    names = [name for name, _ in problem.model.named_parameters() if "bias" in name]
    return problem, names[-1:] if name == "biases" else names[-2:]


@pytest.mark.parametrize("criterion", ["top-10", "all"])
@pytest.mark.parametrize("name", ["61 parameters", "biases", "biases of convolutions"])
def test_the_smaller_side_is_decomposed_and_agrees_with_the_twin(name, criterion, monkeypatch):
    solver, sizes = torch.linalg.eigh, []
    problem, names = _smaller(name)
    parameters = dict(problem.model.named_parameters())
    size = sum(parameters[name].numel() for name in names)
    table = {"top-10": {"kind": "top-k", "k": 10}, "all": ALL}[criterion]
    group = group_of(problem, names, table, lambda evals, *_: torch.full_like(evals, 0.5))  # no solve gives this
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix, **kw: sizes.append(len(matrix)) or solver(matrix, **kw))
    computation = run(problem, [group])
    monkeypatch.undo()
    assert sizes == [size]
    assert computation.get_directions(group).vectors.shape[1] == size
    assert_group_matches_twin(problem, computation, group, names, criterion)


@pytest.mark.parametrize("grad", [None, [7, 2], [11]], ids=str)
@pytest.mark.parametrize("ggn", [[*range(80)], [5, 150, 3, *range(20, 90)]], ids=["80", "73"])
def test_the_smaller_side_of_a_sub_sample_agrees_with_the_twin(ggn, grad):
    """Along directions with λ_k ≥ 1e-7 λ_max: a gradient that is not in their span tells the others by rounding."""
    problem, names = _smaller("61 parameters")
    group = group_of(problem, names, {"kind": "relative-threshold", "ratio": 1e-7}, _constant(0.5))
    computation = run(problem, [group], subsampling_grad=grad, subsampling_ggn=ggn)
    directions = computation.get_directions(group)
    assert directions.vectors is not None
    assert directions.evecs.shape == (len(ggn), len(directions))
    twin = problem.twin(names, grad, ggn)
    kept = (twin.evals >= 1e-7 * twin.evals.max()).nonzero()[:, 0]
    assert 0 < len(directions) == len(kept) < 61
    torch.testing.assert_close(directions.evals, twin.evals[kept])
    torch.testing.assert_close(directions.gammas.square(), twin.gammas[:, kept].square(), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(directions.lambdas, twin.lambdas[:, kept], rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(
        parameters_to_vector(computation.get_result(group)), twin.step(kept.tolist(), 0.5), rtol=1e-6, atol=1e-8
    )


def _formed(capture, parameters):
    """Return V, transposed, `[R, P]`, rows samples first."""
    rows = {}
    for factor in capture.factors:
        columns = factor.root.layout.split(factor.root.formed())
        rows.update({key: part.flatten(1) for key, part in zip(factor.parameters, columns, strict=True)})
    return torch.cat([rows[id(parameter)] for parameter in parameters], dim=1)


@pytest.mark.parametrize("name", ["61 parameters", "classifier"])
def test_monte_carlo_directions_follow_from_their_own_root(name):
    """On the smaller side and on the other, all quantities are those of the V that was drawn."""
    if name == "61 parameters":
        problem = _curve_fit()
        data = (problem.model, problem.loss_function, problem.inputs[::5], problem.targets[::5])
    else:
        data = _double(*_classifier(20))
    samples, mc_samples = len(data[2]), 2
    capture, parameters = _capture(*data, mc_samples=mc_samples)
    root = _formed(capture, parameters)
    directions = group_directions(capture, parameters)
    assert (directions.vectors is not None) == (name == "61 parameters")
    expected = torch.linalg.eigvalsh(root @ root.T)
    torch.testing.assert_close(directions.all_evals, expected, rtol=1e-9, atol=1e-12 * float(expected[-1]))
    kept = directions.select((directions.evals > 1e-9 * directions.evals.max()).nonzero()[:, 0])
    vectors = torch.cat([part.flatten(1) for part in kept.eigenvectors()], dim=1)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(len(kept), dtype=torch.float64), rtol=0, atol=1e-6)
    along = (root @ vectors.T).reshape(samples, mc_samples, -1)
    evecs = along.transpose(0, 1).reshape(root.shape[0], -1) / kept.evals.sqrt()
    torch.testing.assert_close(kept.evecs, evecs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(kept.lambdas, samples * along.square().sum(1), rtol=1e-6, atol=1e-9)
    gradients = per_sample_gradients(*data)
    torch.testing.assert_close(kept.gammas, gradients @ vectors.T, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(kept.loss_gammas, gradients.mean(0) @ vectors.T, rtol=1e-6, atol=1e-9)


# Gammas without division


def _degenerate(name):
    """Return a problem in float32 whose Gram matrix lacks rank, or has a wide spectrum."""
    torch.manual_seed(1)
    outputs = {"one output": 1, "one sigmoid": 1, "two outputs": 2}.get(name, 4)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, outputs))
    inputs, targets, loss_function = torch.randn(6, 5), torch.randint(0, outputs, (6,)), nn.CrossEntropyLoss()
    wrong_by = {
        "wrong by 10": 10.0,
        "wrong by 20": 20.0,
        "wrong by 30": 30.0,
        "wrong by 40": 40.0,
        "wrong by 200": 200.0,
    }
    if name == "repeated samples":
        inputs, targets = inputs[:1].repeat(6, 1), targets[:1].repeat(6)
    elif name == "dead ReLUs":
        nn.init.constant_(model[0].bias, -1e3)
    elif name == "saturated softmax":
        model[2].bias.data, targets = torch.tensor([200.0, 0.0, -200.0, 0.0]), torch.zeros(6, dtype=torch.long)
    elif name in wrong_by:  # the difference of two logits, where the label has the smaller one
        model[2].bias.data = wrong_by[name] * torch.tensor([1.0, 0.0, -1.0, 1.0]) - torch.tensor([0.0, 0.0, 0.0, 1.0])
        targets = torch.tensor([0, 1, 2, 3, 1, 2])
    elif name == "partly saturated":
        inputs *= torch.tensor([1.0, 10.0, 50.0, 100.0, 300.0, 1000.0])[:, None]
    elif name == "wrong sigmoids":
        model[2].bias.data = torch.tensor([25.0, -15.0, 10.0, 0.0])
        loss_function, targets = nn.BCEWithLogitsLoss(), torch.tensor([0.0, 1.0, 0.0, 1.0]).repeat(6, 1)
    elif name == "constant features":
        inputs[:] = 1.0
    elif name == "batch of one":
        inputs, targets = inputs[:1], targets[:1]
    elif name == "zero input":
        inputs[:] = 0.0
    elif name == "one sigmoid":
        loss_function, targets = nn.BCEWithLogitsLoss(), targets[:, None].float()
    elif name != "two outputs":
        loss_function, targets = nn.MSELoss(), torch.randn(6, outputs)
        if name == "twelve orders of magnitude":
            inputs *= torch.logspace(-6, 6, 5)
        elif name == "samples over twelve orders":
            inputs *= torch.logspace(-6, 6, 6)[:, None]
    return model, loss_function, inputs, targets


FULL = [  # nothing of the gradient lies along numerically zero directions
    "repeated samples",
    "dead ReLUs",
    "constant features",
    "batch of one",
    "zero input",
    "one output",
    "one sigmoid",
    "two outputs",
    "twelve orders of magnitude",
    "samples over twelve orders",
]
WITH_LOSS = [  # some of it does: what is predicted wrongly and with confidence has a gradient, but no curvature
    "saturated softmax",
    "partly saturated",
    "wrong by 10",
    "wrong by 20",
    "wrong by 30",
    "wrong by 40",
    "wrong by 200",
    "wrong sigmoids",
]
SETTINGS = {
    "exact": {},
    "gradient of the last": {"subsampling_grad": [-1]},
    "GGN of the first": {"subsampling_ggn": [0]},
    "Monte Carlo": {"mc_samples": 3},
}


@pytest.mark.parametrize("settings_name", SETTINGS)
@pytest.mark.parametrize("name", FULL + WITH_LOSS)
def test_gammas_of_all_directions_in_float32_agree_with_the_twin(name, settings_name):
    """Never NaN, and `|γ[n, k] - e_kᵀ g_n| ≤ 64 ε √(λ_max / λ_k) max_n |g_n|`, for means over samples, too."""
    problem = _degenerate(name)
    samples = len(problem[2])
    chosen = {
        key: [index % samples for index in value] if isinstance(value, list) else value
        for key, value in SETTINGS[settings_name].items()
    }
    capture, parameters = _capture(*problem, **chosen, generator=torch.Generator().manual_seed(0))
    directions = group_directions(capture, parameters)
    for quantity in (directions.all_evals, directions.evecs, directions.gammas, directions.lambdas):
        assert bool(torch.isfinite(quantity).all())
    step = damped_newton_step(capture, parameters, Choice(lambda found: range(len(found)), lambda found: found.evals))
    assert all(bool(torch.isfinite(part).all()) for part in step.moves)
    gradients = per_sample_gradients(*_double(*problem))
    scale = float(gradients.norm(dim=1).max())
    gradients = gradients[chosen.get("subsampling_grad", range(samples))]
    assert directions.gammas.shape == (len(gradients), len(directions))
    if not len(directions):
        assert name in WITH_LOSS
        return
    vectors = torch.cat([part.flatten(1) for part in directions.eigenvectors()], dim=1).double()
    bound = 64 * torch.finfo(torch.float32).eps * (directions.evals.max() / directions.evals).sqrt() * scale
    assert bool(((directions.gammas.double() - gradients @ vectors.T).abs() <= bound).all())
    assert bool(((directions.loss_gammas.double() - gradients.mean(0) @ vectors.T).abs() <= bound).all())


@pytest.mark.parametrize("name", FULL)
def test_gammas_of_all_directions_hold_the_whole_gradient(name):
    """With the exact GGN `Σ_k γ[n, k] γ[m, k] = g_nᵀ g_m`, to 1e-5 of the largest."""
    problem = _degenerate(name)
    capture, parameters = _capture(*problem)
    gammas = group_directions(capture, parameters).gammas.double()
    gradients = per_sample_gradients(*_double(*problem))
    expected = gradients @ gradients.T
    assert float((gammas @ gammas.T - expected).abs().max()) < 1e-5 * float(expected.diagonal().max())


@pytest.mark.parametrize("criterion", ["all", "top-3"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong_by", ["wrong by 10", "wrong by 20", "wrong by 40", "wrong by 200"])
def test_steps_with_confident_mistakes_agree_with_the_twin(wrong_by, dtype, criterion):
    """A mistake at p = e⁻²⁰⁰ has coefficients e¹⁰⁰ times its gradient: leading directions to 1e-5, 1e-9 in float64.

    A solve takes the rest of the gradient along, which has no direction: `-(G + δ I)⁻¹ g` to the same bounds.
    """
    model, loss_function, inputs, targets = problem = _in(dtype, *_degenerate(wrong_by))
    capture, parameters = _capture(*problem)
    if capture.coefficients is None and criterion == "all":
        pytest.skip("the gradient is not in the span of what rounding leaves of V, and there is no solve")
    twin = dense_twin(*_double(model, loss_function, inputs, targets))
    choice = Choice(lambda found: range(len(found)), lambda found: torch.full_like(found.evals, 0.1))
    if criterion == "all":
        choice = Choice(choice.criterion, choice.damping, uniform_damping=lambda _: 0.1)
        expected = twin.step(range(len(twin.evals)), 0.1)
    else:
        choice = Choice(choice.criterion, choice.damping, largest=lambda _: 3)
        expected = twin.step(range(len(twin.evals) - 3, len(twin.evals)), 0.1)
    step = damped_newton_step(capture, parameters, choice)
    assert (step.uniform_damping is not None) == (criterion == "all")
    assert _difference(step.moves, expected) < (1e-5 if dtype == torch.float32 else 1e-9)


IN_SPAN = {
    "label smoothing": lambda: (nn.CrossEntropyLoss(label_smoothing=0.2), torch.randint(0, 3, (6,))),
    "label smoothing, sum": lambda: (
        nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum"),
        torch.randint(0, 3, (6,)),
    ),
    "class probabilities": lambda: (nn.CrossEntropyLoss(), torch.softmax(torch.randn(6, 3), 1)),
    "smoothed class probabilities": lambda: (
        nn.CrossEntropyLoss(label_smoothing=0.3),
        torch.softmax(torch.randn(6, 3), 1),
    ),
    "probabilities of sigmoids": lambda: (nn.BCEWithLogitsLoss(), torch.rand(6, 3)),
    "mean squared error": lambda: (nn.MSELoss(reduction="sum"), torch.randn(6, 3)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 0.25, 3.0])
@pytest.mark.parametrize("name", IN_SPAN)
def test_smoothed_soft_and_scaled_losses_stay_in_the_span(name, scale, dtype):
    """Gammas along each direction to 1e-4 of the largest gradient, and to 1e-9 in float64."""
    torch.manual_seed(2)
    loss_function, targets = IN_SPAN[name]()
    model, inputs = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(6, 5)
    problem = _in(dtype, model, loss_function, inputs, targets)
    capture, parameters = _capture(*problem, scale=scale)
    assert capture.coefficients is not None
    directions = group_directions(capture, parameters)
    gradients = scale * per_sample_gradients(*_double(*problem))
    vectors = torch.cat([part.flatten(1) for part in directions.eigenvectors()], dim=1).double()
    bound = (1e-4 if dtype == torch.float32 else 1e-9) * float(gradients.norm(dim=1).max())
    assert float((directions.gammas.double() - gradients @ vectors.T).abs().max()) < bound
    reduced = gradients.mean(0) if loss_function.reduction == "mean" else gradients.sum(0)
    assert float((directions.loss_gammas.double() - reduced @ vectors.T).abs().max()) < 6 * bound
    assert _difference(directions.gammas.norm(dim=1), gradients.norm(dim=1)) < 1e-4
