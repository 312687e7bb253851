"""Models in half precision and autocast: curvature in float32, and the step of the numbers that the model has."""

from __future__ import annotations

import copy

import pytest
import torch
from backpack import backpack, extend
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton, DirectionalDampedNewtonComputation
from ddn_core.testing import dense_twin
from tests.engine.cases import LOSSES

HALVES = [torch.bfloat16, torch.float16]
DAMPING = 0.1
MODELS = {
    "linear layers": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)),
        lambda: torch.randn(8, 5),
    ),
    "a sequence": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(15, 3)),
        lambda: torch.randn(8, 5, 4),
    ),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(8, 3)
        ),
        lambda: torch.randn(8, 1, 8, 8),
    ),
    "batch normalization": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).eval(),
        lambda: torch.randn(8, 5),
    ),
    "an embedding": (
        lambda: nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Linear(6, 3)),
        lambda: torch.randint(0, 6, (8, 2)),
    ),
}
STRATEGIES = {
    "top-3": {"criterion": {"kind": "top-k", "k": 3}, "damping": {"kind": "constant", "value": DAMPING}},
    "all": {
        "criterion": {"kind": "all"},
        "damping": {"kind": "maximum", "of": [{"kind": "constant", "value": DAMPING}]},
    },
    "all, solved": {"criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": DAMPING}},
}


def _problem(name, loss, dtype):
    """Return a problem in a dtype, and its twin: the same numbers in float64."""
    torch.manual_seed(0)
    make, make_inputs = MODELS[name]
    model, inputs = make(), make_inputs()
    make_loss, make_targets = LOSSES[loss]
    targets = make_targets(model(inputs).detach())
    inputs, targets = (value.to(dtype) if value.is_floating_point() else value for value in (inputs, targets))
    model = model.to(dtype)
    doubled = [value.double() if value.is_floating_point() else value for value in (inputs, targets)]
    return (model, make_loss("mean"), inputs, targets), dense_twin(
        copy.deepcopy(model).double(), make_loss("mean"), *doubled
    )


def _expected(twin, strategy):
    first = len(twin.evals) - 3 if strategy == "top-3" else 0
    return twin.step(range(first, len(twin.evals)), DAMPING)


def _difference(step, expected):
    return float((parameters_to_vector(step).double() - expected).norm() / expected.norm())


def _run(problem, strategy, autocast=False):
    """Return the step and the directions."""
    model, loss_function, inputs, targets = problem
    group = {"params": list(model.parameters()), **STRATEGIES[strategy]}
    computation = DirectionalDampedNewtonComputation()
    if not autocast:
        computation.backward(loss_function(model(inputs), targets), [group])
        return computation.get_result(group), computation.get_directions(group)
    model, loss_function = extend(model), extend(loss_function)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss_function(model(inputs), targets)
        with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])):
            value.backward()
    return computation.get_result(group), computation.get_directions(group)


def _assert_single(step, directions):
    for quantity in ("evals", "all_evals", "evecs", "gammas", "lambdas", "deltas", "coefficients"):
        assert getattr(directions, quantity).dtype == torch.float32, quantity
        assert bool(torch.isfinite(getattr(directions, quantity)).all()), quantity
    for part in (*step, *directions.eigenvectors()):
        assert part.dtype == torch.float32
        assert bool(torch.isfinite(part).all())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_half_precision_models_have_curvature_in_float32(name, dtype, loss, strategy):
    """The step is that of the float64 twin to 2 ε of the half precision (8 ε for the leading three): a pass rounds."""
    problem, twin = _problem(name, loss, dtype)
    try:
        problem[0](problem[2])
    except RuntimeError as error:
        pytest.skip(f"torch has no such operation on the CPU: {error}")
    step, directions = _run(problem, strategy)
    _assert_single(step, directions)
    bound = (8 if strategy == "top-3" else 2) * torch.finfo(dtype).eps
    assert _difference(step, _expected(twin, strategy)) < bound


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
@pytest.mark.parametrize("name", MODELS)
def test_curvature_of_an_autocast_pass_is_in_float32(name, loss, strategy):
    """To the same bounds, with the precision of the activations."""
    problem, twin = _problem(name, loss, torch.float32)
    step, directions = _run(problem, strategy, autocast=True)
    _assert_single(step, directions)
    bound = (8 if strategy == "top-3" else 2) * torch.finfo(torch.bfloat16).eps
    assert 1e-5 < _difference(step, _expected(twin, strategy)) < bound  # half precision was used


def test_curvature_of_an_autocast_pass_of_any_model_is_in_float32():
    """As above, with `backward` of the computation inside the block."""
    (model, loss_function, inputs, targets), twin = _problem("linear layers", "cross-entropy", torch.float32)
    group = {"params": list(model.parameters()), **STRATEGIES["all"]}
    computation = DirectionalDampedNewtonComputation()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        computation.backward(loss_function(model(inputs), targets), [group])
    _assert_single(computation.get_result(group), computation.get_directions(group))
    assert _difference(computation.get_result(group), _expected(twin, "all")) < 2 * torch.finfo(torch.bfloat16).eps


def test_nothing_of_an_autocast_pass_s_curvature_is_autocast(monkeypatch):
    """Products with the factors' own numbers are exact to float32: autocast ends before curvature is computed."""
    problem, _ = _problem("linear layers", "cross-entropy", torch.float32)
    solver, precisions = torch.linalg.eigh, []

    def note(matrix, **settings):
        precisions.append((matrix.dtype, torch.is_autocast_enabled("cpu")))
        return solver(matrix, **settings)

    monkeypatch.setattr(torch.linalg, "eigh", note)
    _, directions = _run(problem, "top-3", autocast=True)
    assert precisions
    assert set(precisions) == {(torch.float32, False)}
    vectors = torch.cat([part.flatten(1) for part in directions.eigenvectors()], dim=1)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("curvature", [None, {"kind": "ggn-mc", "mc_samples": 2, "seed": 0}], ids=["exact", "mc"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_an_optimizer_moves_parameters_of_half_precision(dtype, curvature):
    (model, loss_function, inputs, targets), _ = _problem("linear layers", "cross-entropy", dtype)
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=1.0, lr=0.5, curvature=curvature)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_function(model(inputs), targets)
        optimizer.backward(loss)
        before = parameters_to_vector(model.parameters()).detach().clone()
        optimizer.step()
        after = parameters_to_vector(model.parameters()).detach()
        assert after.dtype == dtype
        norm, report = float((after.double() - before.double()).norm()), optimizer.last_step[0]
        assert report.step_norm.dtype == torch.float32
        assert norm == pytest.approx(0.5 * float(report.step_norm), rel=0.1)
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_master_weights_in_float64_have_curvature_in_float64():
    problem, twin = _problem("linear layers", "mse", torch.float64)
    step, directions = _run(problem, "all")
    assert {part.dtype for part in step} == {directions.evals.dtype} == {torch.float64}
    assert _difference(step, _expected(twin, "all")) < 1e-9


def test_an_output_that_is_cast_before_the_loss():
    """The cast is a part of the graph, so that the step is that of the autocast pass without it."""
    (model, loss_function, inputs, targets), twin = _problem("linear layers", "cross-entropy", torch.float32)
    group = {"params": list(model.parameters()), **STRATEGIES["all"]}
    computation = DirectionalDampedNewtonComputation()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(inputs)
    assert outputs.dtype == torch.bfloat16
    computation.backward(loss_function(outputs.float(), targets), [group])
    step = computation.get_result(group)
    _assert_single(step, computation.get_directions(group))
    assert 1e-5 < _difference(step, _expected(twin, "all")) < 2 * torch.finfo(torch.bfloat16).eps
