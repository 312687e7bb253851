"""The context that the optimizer and the computations pass to strategies with the directions."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from backpack import backpack, extend
from pydantic import PrivateAttr
from torch import nn

from ddn_core import DirectionalDampedNewton, DirectionalDampedNewtonComputation
from ddn_core.api import Criterion, Damping, Outcome
from ddn_core.errors import ArgumentError, StrategyError
from ddn_core.testing import dense_ggn, per_sample_gradients

ALL = {"kind": "all"}
SGD = {"kind": "sgd", "lr": 0.1}


class Noting(Damping):
    """Notes every context that it is given; δ = 1."""

    _contexts: list = PrivateAttr(default_factory=list)

    def damp(self, directions):
        self._contexts.append(directions.context)
        return torch.ones_like(directions.evals)

    def state_dict(self):
        return {"own": {}}

    def load_state_dict(self, state):
        pass


class Curious(Noting):
    """Wants to know what the last step did, without the loss after it."""

    requires = frozenset({"outcome"})


class Attentive(Noting):
    """Wants to know the loss after the step."""

    requires = frozenset({"loss_after"})


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    return extend(model), extend(nn.CrossEntropyLoss()), torch.randn(8, 5, dtype=dtype), torch.arange(8) % 3


@torch.no_grad()
def loss_of(model, loss_function, X, y):
    return float(loss_function(model(X), y))


def optimizer_of(model, *dampings, criterion=ALL, lr=0.5, **curvature):
    params = [["0.*"], ["*"]] if len(dampings) == 2 else [["*"]]
    groups = [
        {"params": globs, "criterion": criterion, "damping": damping, "lr": lr}
        for globs, damping in zip(params, dampings, strict=True)
    ]
    return DirectionalDampedNewton(model.named_parameters(), groups, curvature=curvature)


def step(optimizer, model, loss_function, X, y):
    optimizer.zero_grad()
    with optimizer.curvature():
        loss_function(model(X), y).backward()
    optimizer.step(lambda: loss_function(model(X), y))


@pytest.mark.parametrize("curvature", [{}, {"kind": "ggn-mc", "mc_samples": 2}], ids=["exact", "Monte Carlo"])
def test_context_of_the_optimizer(curvature):
    model, loss_function, X, y = problem()
    optimizer = optimizer_of(model, Noting(), Noting(), **curvature)
    norms = []
    for _ in range(3):
        before = [[p.detach().clone() for p in group["params"]] for group in optimizer.param_groups]
        step(optimizer, model, loss_function, X, y)
        gradients = [[p.grad for p in group["params"]] for group in optimizer.param_groups]
        norms.append([_norm(tensors) for tensors in (*before, *gradients)])
    for number, group in enumerate(optimizer.param_groups):
        contexts = group["damping"]._contexts
        assert [context.step for context in contexts] == [0, 1, 2]
        for context in contexts:
            assert (context.group, context.lr, context.outputs, context.samples) == (number, 0.5, 3, 8)
            assert context.parameters == sum(p.numel() for p in group["params"])
            assert context.last is None  # nobody asked for it
        first, row = contexts[0], norms[0]
        assert first.gradient_norm == pytest.approx(row[2 + number], rel=1e-10)
        last = contexts[-1]  # its norm of parameters, first read now, is that after the step
        assert last.parameter_norm == pytest.approx(_norm(group["params"]), rel=1e-10)


def _norm(tensors):
    return math.sqrt(sum(float(tensor.detach().square().sum()) for tensor in tensors))


def test_the_mean_curvature_is_over_the_smaller_side():
    """Of R columns and P parameters: 24 and 54 in the first group, and 24 and 3 in the second."""
    model, loss_function, X, y = problem()
    names = (["0.weight", "0.bias", "2.weight"], ["2.bias"])
    dampings = [Noting(), Noting()]
    groups = [{"params": own, "criterion": ALL, "damping": noting} for own, noting in zip(names, dampings, strict=True)]
    optimizer = DirectionalDampedNewton(model.named_parameters(), groups)
    expected = [
        float(dense_ggn(model, loss_function, X, y, own).trace()) / smaller
        for own, smaller in zip(names, (24, 3), strict=True)
    ]
    optimizer.backward(loss_function(model(X), y))
    optimizer.step()
    found = [group["damping"]._contexts[0].mean_curvature for group in optimizer.param_groups]
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "curvature",
    [{}, {"kind": "ggn-mc"}, {"kind": "ggn-aligned"}, {"subsampling_grad": [1, 4, 6]}, {"subsampling_ggn": [1, 4, 6]}],
    ids=str,
)
def test_the_square_of_the_gradients_of_the_samples(curvature, reduction):
    """Each gradient is scaled so that their mean is the gradient of the loss, also of a sum-reduced loss."""
    model, _, X, y = problem()
    loss_function = extend(nn.CrossEntropyLoss(reduction=reduction))
    chosen = curvature.get("subsampling_grad", range(8))
    for names, globs in ((["0.weight", "0.bias", "2.weight", "2.bias"], ["*"]), (["2.bias"], ["2.bias"])):
        rows = per_sample_gradients(model, loss_function, X, y, names)[list(chosen)]
        scale = len(rows) if reduction == "sum" else 1
        groups = [{"params": globs, "criterion": ALL, "damping": Noting()}]
        optimizer = DirectionalDampedNewton(model.named_parameters(), groups, curvature=curvature, fallback=SGD)
        optimizer.zero_grad()
        optimizer.backward(loss_function(model(X), y))
        context = optimizer.directions().context
        assert context.sample_gradient_square == pytest.approx(float((scale * rows).square().sum(1).mean()), rel=1e-9)


def test_norms_are_those_at_the_step():
    class Reading(Damping):
        """Reads the norms when it damps."""

        _norms: list = PrivateAttr(default_factory=list)

        def damp(self, directions):
            self._norms.append((directions.context.parameter_norm, directions.context.gradient_norm))
            return torch.ones_like(directions.evals)

    model, loss_function, X, y = problem()
    optimizer = optimizer_of(model, Reading())
    expected = []
    for _ in range(2):
        before = _norm([p.clone() for p in model.parameters()])
        step(optimizer, model, loss_function, X, y)
        expected.append((before, _norm([p.grad for p in model.parameters()])))
    found = optimizer.param_groups[0]["damping"]._norms
    assert found == [pytest.approx(pair, rel=1e-10) for pair in expected]


@pytest.mark.parametrize("cls", [Curious, Attentive])
def test_the_last_outcome(cls):
    model, loss_function, X, y = problem()
    optimizer = optimizer_of(model, cls(), Noting())
    losses = []
    for _ in range(3):
        losses.append(loss_of(model, loss_function, X, y))
        step(optimizer, model, loss_function, X, y)
    first, second, third = optimizer.param_groups[0]["damping"]._contexts
    assert first.last is None
    assert [context.last.step for context in (second, third)] == [0, 1]
    assert second.last.loss_before == pytest.approx(losses[0])
    if cls is Curious:
        for name in ("loss_after", "actual_decrease", "ratio", "model_error", "is_rounding"):
            with pytest.raises(
                StrategyError, match=r"damping 'Curious' .* reads the loss after the step .*`requires = "
            ):
                getattr(second.last, name)
        assert "loss_before=" in repr(second.last)
        assert "loss_after" not in repr(second.last)
    else:
        assert second.last.actual_decrease == pytest.approx(losses[0] - losses[1])
        assert second.last.ratio == pytest.approx((losses[0] - losses[1]) / second.last.total_predicted_decrease)
    assert second.last.total_predicted_decrease > second.last.predicted_decrease > 0
    assert all(context.last is None for context in optimizer.param_groups[1]["damping"]._contexts)
    # it is saved, and a copy has it too
    other = optimizer_of(problem()[0], cls(), Noting())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for resumed in (other, copy.deepcopy(optimizer)):
        assert resumed._progress.outcomes == optimizer._progress.outcomes
        assert resumed._progress.outcomes[0].step == 2


def test_ratio_of_an_outcome():
    values = {"step": 0, "lr": 1.0, "loss_before": 3.0, "step_norm": 1.0, "directions": 1, "predicted_decrease": 1.0}
    assert Outcome(**values, loss_after=2.0, total_predicted_decrease=2.0).ratio == 0.5
    for after, predicted in ((None, 2.0), (2.0, 0.0), (2.0, -1.0), (math.nan, 1.0), (2.0, math.nan)):
        assert math.isnan(Outcome(**values, loss_after=after, total_predicted_decrease=predicted).ratio)


def test_context_of_a_computation_counts_passes():
    model, loss_function, X, y = problem()
    computation = DirectionalDampedNewtonComputation()
    seen = []

    class Seeing(Criterion):
        """Notes the context; keeps all."""

        def select(self, directions):
            seen.append(directions.context)
            return range(len(directions))

    names = [list(model[0].parameters()), list(model[2].parameters())]
    groups = [{"params": group, "criterion": Seeing(), "damping": {"kind": "gradient-norm"}} for group in names]
    hook = computation.get_extension_hook(groups)
    for _ in range(2):
        loss = loss_function(model(X), y)
        with backpack(*computation.get_extensions(), extension_hook=hook):
            loss.backward()
    assert [(context.step, context.group) for context in seen] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    deltas = computation.get_directions(groups[0]).deltas
    assert deltas[0] ** 2 == pytest.approx(seen[-2].gradient_norm)


def test_gradient_norm_is_solved_for_and_gives_the_same_step():
    steps = []
    for damping in ({"kind": "gradient-norm", "smoothness": 2.0}, None):
        model, loss_function, X, y = problem()
        if damping is None:  # the same number, by a function, which nobody can know beforehand
            step(optimizer_of(model, {"kind": "constant"}, lr=1e-300), model, loss_function, X, y)
            delta = math.sqrt(2.0 * _norm([p.grad for p in model.parameters()]))
            damping = lambda evals, *_, delta=delta: torch.full_like(evals, delta)  # noqa: E731
        optimizer = optimizer_of(model, damping)
        step(optimizer, model, loss_function, X, y)
        steps.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert (optimizer.last_step[0].uniform_damping is None) == callable(damping)
    torch.testing.assert_close(*steps, rtol=1e-9, atol=1e-11)


def test_top_k_of_outputs_keeps_as_many_as_classes_with_monte_carlo_samples_too():
    for curvature in ({}, {"kind": "ggn-mc", "mc_samples": 1}):
        model, loss_function, X, y = problem()
        optimizer = optimizer_of(model, {"kind": "constant"}, criterion={"kind": "top-k", "k": "outputs"}, **curvature)
        step(optimizer, model, loss_function, X, y)
        assert optimizer.last_step[0].directions == 3


ADAPTIVE = {
    "levenberg-marquardt": {"kind": "levenberg-marquardt", "initial": 0.1},
    "trust-region": {"kind": "trust-region", "radius": 0.05},
    "nested": {"kind": "maximum", "of": [{"kind": "levenberg-marquardt"}, {"kind": "constant", "value": 1e-3}]},
}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_dampings_learn_and_resume_exactly(name):
    """A run that is saved, loaded and continued is the run that was not interrupted."""

    def run(stop=None):
        model, loss_function, X, y = problem()
        optimizer = optimizer_of(model, ADAPTIVE[name], lr=1.0)
        dampings = []
        for index in range(12):
            if index == stop:
                saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
                model, loss_function, X, y = problem()
                optimizer = optimizer_of(model, ADAPTIVE[name], lr=1.0)
                model.load_state_dict(saved[0])
                optimizer.load_state_dict(saved[1])
            step(optimizer, model, loss_function, X, y)
            dampings.append(optimizer.last_step[0].damping_range()[0])
        return dampings, loss_of(model, loss_function, X, y)

    dampings, loss = run()
    assert len(set(dampings)) > 2  # it adapts
    assert loss < 0.2
    assert run(stop=5) == (dampings, loss)


def test_the_ratio_compares_all_groups_with_the_loss():
    """Two groups that predict well each see a ratio near 1, not one half."""
    ratios = []

    class Watching(Damping):
        """Notes ratios; δ = 100."""

        requires = frozenset({"loss_after"})

        def damp(self, directions):
            return torch.full_like(directions.evals, 100.0)

        def observe(self, outcome):
            ratios.append(outcome.ratio)

    model, loss_function, X, y = problem()
    step(optimizer_of(model, Watching(), Watching(), lr=0.1), model, loss_function, X, y)
    assert ratios == [pytest.approx(1.0, abs=0.05)] * 2


class Telling(Criterion):
    """Keeps all, and says so in a way that is given."""

    keeps: Any = True
    needs: Any = None

    def keeps_all(self):
        return self.keeps()

    def leading_directions(self, context):
        return self.needs

    def select(self, directions):
        return range(len(directions))


class Uniform(Damping):
    """δ = 1, told beforehand in a way that is given."""

    told: Any = 1.0

    def uniform(self, context):
        return self.told

    def damp(self, directions):
        return torch.ones_like(directions.evals)


@pytest.mark.parametrize(
    ("criterion", "damping", "message"),
    [
        (Telling(keeps=lambda: 1 / 0), Uniform(), "`keeps_all` raised ZeroDivisionError"),
        (Telling(keeps=lambda: False, needs="2"), Uniform(), "`leading_directions` returned '2'; expected a number"),
        (Telling(keeps=lambda: False, needs=2.0), Uniform(), "`leading_directions` returned 2.0"),
        (Telling(keeps=lambda: False, needs=-1), Uniform(), "`leading_directions` returned -1"),
        (Telling(keeps=lambda: True), Uniform(told="1"), "`uniform` returned '1'; expected a damping as a float"),
        (Telling(keeps=lambda: True), Uniform(told=torch.tensor(1.0)), r"`uniform` returned tensor\(1.\)"),
        (Telling(keeps=lambda: True), Uniform(told=math.nan), "`uniform` returned nan"),
        (Telling(keeps=lambda: True), Uniform(told=-1.0), "`uniform` returned -1.0"),
    ],
)
def test_what_is_told_beforehand_is_checked(criterion, damping, message):
    model, loss_function, X, y = problem()
    optimizer = optimizer_of(model, damping, criterion=criterion)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(StrategyError, match=f"^group 0: .*{message}"):
        step(optimizer, model, loss_function, X, y)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("returned", [None, "x", torch.ones(3)], ids=["nothing", "text", "three numbers"])
def test_a_closure_that_returns_no_loss_is_told(returned):
    model, loss_function, X, y = problem()
    optimizer = optimizer_of(model, {"kind": "levenberg-marquardt"})
    with optimizer.curvature():
        loss_function(model(X), y).backward()
    with pytest.raises(ArgumentError, match=r"the closure returned .* instead of the loss, and the step has been made"):
        optimizer.step(lambda: returned)


@pytest.mark.filterwarnings("ignore::ddn_core.errors.DivergenceWarning")  # the loss of other data is large at first
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["levenberg-marquardt", "trust-region"])
def test_adaptive_dampings_survive_convergence(kind, dtype):
    """Trained to rounding level, and then given other data: they go on, and learn it too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)).to(dtype)
    loss_function = nn.MSELoss()
    optimizer = optimizer_of(model, {"kind": kind}, lr=1.0)
    for _ in range(2):
        X, y = torch.randn(8, 4, dtype=dtype), torch.randn(8, 2, dtype=dtype)
        for _ in range(100):  # 11 to 55 until the loss is below 1e-6
            step(optimizer, model, loss_function, X, y)
        assert loss_of(model, loss_function, X, y) < 1e-6
