"""Settings of a group that shape its step, against a reference of dense matrices in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton
from ddn_core.config import GroupSettings, parse_config
from ddn_core.engine import GroupCurvature
from ddn_core.engine.capture import carried
from ddn_core.errors import ArgumentError, ConfigError, CurvatureError
from ddn_core.testing import dense_ggn
from ddn_core.testing.dense import _without_hooks
from tests.profiles import examples

DELTA = 0.3
MODELS = {  # fewer columns than parameters, and more
    "wide": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), 4),
    "narrow": (lambda: nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3)), 12),
}
CRITERIA = {"all": {"kind": "all"}, "top": {"kind": "top-k", "k": 4}}
DAMPINGS = {"uniform": {"kind": "constant", "value": DELTA}, "relative": {"kind": "relative", "fraction": 0.2}}


def problem(name, loss="cross-entropy", seed=0):
    torch.manual_seed(seed)
    make, samples = MODELS[name]
    targets = torch.randint(0, 3, (samples,)) if loss == "cross-entropy" else torch.randn(samples, 3).double()
    loss_function = nn.CrossEntropyLoss() if loss == "cross-entropy" else nn.MSELoss(reduction="sum")
    return make().double(), loss_function, torch.randn(samples, 4).double(), targets


def train_step(optimizer, model, loss_function, X, y, closure=None):
    optimizer.zero_grad()
    with optimizer.curvature():
        loss = loss_function(model(X), y)
        loss.backward()
    return optimizer.step(closure)


class Reference:
    """The same step from dense matrices, one formula after the other; all parameters are one vector."""

    def __init__(self, model, loss_function, X, y, criterion, damping, **given):
        self.model, self.loss_function, self.X, self.y = _without_hooks(model), _without_hooks(loss_function), X, y
        self.criterion, self.damping = criterion, damping
        self.settings = GroupSettings(**given)
        self.theta = parameters_to_vector(model.parameters()).detach().clone()
        self.buffer = self.previous = self.kept = None
        self.count, self.is_tied = 0, False

    def loss(self, theta):
        shapes = {name: p.shape for name, p in self.model.named_parameters()}
        parts = torch.split(theta, [math.prod(shape) for shape in shapes.values()])
        values = {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return self.loss_function(functional_call(self.model, values, (self.X,)), self.y)

    def gradient(self):
        theta = self.theta.clone().requires_grad_()
        return torch.autograd.grad(self.loss(theta), theta)[0]

    def ggn(self):
        nn.utils.vector_to_parameters(self.theta, self.model.parameters())
        return dense_ggn(self.model, self.loss_function, self.X, self.y)

    def directions(self):
        """Eigenvectors in columns, curvatures and dampings."""
        evals, vectors = torch.linalg.eigh(self.ggn())
        keep = evals > 1e-12 * evals.max()
        evals, vectors = evals[keep], vectors[:, keep]
        if self.criterion["kind"] == "top-k":
            first = len(evals) - self.criterion["k"]  # number of the smallest that is kept
            self.is_tied |= first > 0 and bool(evals[first] - evals[first - 1] < 1e-8 * evals[-1])
            evals, vectors = evals[-self.criterion["k"] :], vectors[:, -self.criterion["k"] :]
        lambdas = evals + self.settings.weight_decay
        if self.damping["kind"] == "relative":
            deltas = torch.full_like(evals, self.damping["fraction"] * float(evals.max()))
        else:
            deltas = torch.full_like(evals, self.damping["value"])
        return vectors, lambdas, deltas

    def step(self):
        s, theta = self.settings, self.theta
        if self.count % s.every == 0:
            self.kept = self.directions()
        E, lambdas, deltas = self.kept
        anchor = torch.zeros_like(theta) if self.previous is None else s.memory * self.previous
        gradient = self.gradient() + s.weight_decay * theta
        gammas, anchors = E.T @ gradient, E.T @ anchor
        lengths = anchors - (gammas + lambdas * anchors) / (lambdas + deltas)
        outside = lambda v: v - E @ (E.T @ v)  # noqa: E731
        rest, w = outside(anchor), s.weight_decay
        if s.include_complement:
            rest = rest - outside(gradient + w * anchor) / (w + float(deltas.max()))
        elif self.criterion["kind"] == "all":
            rest = rest - w / (w + float(deltas.max())) * outside(theta + anchor)
        step = E @ lengths + rest
        self.previous = step
        move = step
        if s.momentum:
            self.buffer = step if self.buffer is None else s.momentum * self.buffer + step
            move = step + s.momentum * self.buffer if s.nesterov else self.buffer
        factor = s.lr
        if s.max_step_norm is not None:
            factor = min(factor, s.max_step_norm / float(move.norm()))
        if s.max_relative_norm is not None:
            size = max(float(theta.norm()), 0.03 * math.sqrt(len(theta)))
            factor = min(factor, s.max_relative_norm * size / float(move.norm()))
        if s.max_kl is not None:
            bend = float(move @ self.ggn() @ move)
            factor = min(factor, math.sqrt(2 * s.max_kl / bend))
        self.theta = theta * (1 - s.lr * s.decoupled_weight_decay) + factor * move
        self.count += 1


def assert_like_reference(name, criterion, damping, steps=4, loss="cross-entropy", seed=0, **given):
    model, loss_function, X, y = problem(name, loss, seed)
    reference = Reference(copy.deepcopy(model), copy.deepcopy(loss_function), X, y, criterion, damping, **given)
    group = {"params": ["*"], "criterion": criterion, "damping": damping, **given}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], full_report=True)
    for _ in range(steps):
        train_step(optimizer, model, loss_function, X, y)
        reference.step()
        if reference.is_tied:
            return optimizer  # rounding decides which of two equal eigenvalues is among the largest
        theirs = reference.theta
        torch.testing.assert_close(parameters_to_vector(model.parameters()).detach(), theirs, rtol=1e-6, atol=1e-8)
    return optimizer


@pytest.mark.parametrize("start", [0.0, 1e-6, 0.5])
def test_parameters_may_begin_small_and_change_their_sign(start):
    """The limit counts a root mean square below 0.03 as 0.03, so that nothing is held back near zero."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, start)
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=1e-3, max_relative_norm=0.3)
    X, lengths, before = torch.ones(1, 1).double(), [], start
    for _ in range(60):
        train_step(optimizer, model, nn.MSELoss(), X, -2 * X)
        lengths.append(abs(model.weight.item() - before) / max(abs(before), 0.03))
        before = model.weight.item()
    assert model.weight.item() == pytest.approx(-2.0, rel=1e-3)
    assert max(lengths) == pytest.approx(0.3)


FEATURES = [
    {},
    {"momentum": 0.7},
    {"momentum": 0.7, "nesterov": True},
    {"weight_decay": 0.1},
    {"decoupled_weight_decay": 0.1},
    {"memory": 0.9},
    {"memory": 0.9, "weight_decay": 0.2},
    {"max_step_norm": 0.1},
    {"max_relative_norm": 0.05},
    {"max_relative_norm": 0.05, "momentum": 0.5, "max_step_norm": 0.08},
    {"max_kl": 0.01},
    {"momentum": 0.5, "max_kl": 0.01},
    {"weight_decay": 0.1, "max_kl": 0.01, "memory": 0.5},
    {"include_complement": True},
    {"include_complement": True, "weight_decay": 0.1, "memory": 0.5},
    {"include_complement": True, "every": 2, "weight_decay": 0.1, "momentum": 0.5},
    {"every": 3},
    {"every": 2, "momentum": 0.5, "memory": 0.5, "weight_decay": 0.1},
]


@pytest.mark.parametrize(
    ("name", "criterion", "damping"),
    [
        # `make test` has every pair of the three, with each feature
        pytest.param(name, criterion, damping, marks=pytest.mark.slow if (i + j + k) % 2 else ())
        for i, name in enumerate(MODELS)
        for j, criterion in enumerate(CRITERIA)
        for k, damping in enumerate(DAMPINGS)
    ],
)
@pytest.mark.parametrize("given", FEATURES, ids=str)
def test_steps_are_those_of_the_reference(given, name, criterion, damping):
    assert_like_reference(name, CRITERIA[criterion], DAMPINGS[damping], lr=0.5, **given)


@examples(20)
@given(
    name=st.sampled_from(list(MODELS)),
    criterion=st.sampled_from(list(CRITERIA)),
    damping=st.sampled_from(list(DAMPINGS)),
    loss=st.sampled_from(["cross-entropy", "mse"]),
    seed=st.integers(0, 100),
    lr=st.floats(0.1, 0.8),
    momentum=st.sampled_from([0.0, 0.3, 0.8]),
    nesterov=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.05, 1.0]),
    decoupled=st.sampled_from([0.0, 0.1]),
    memory=st.sampled_from([0.0, 0.5, 0.95]),
    longest=st.sampled_from([None, 0.05, 10.0]),
    complement=st.booleans(),
)
def test_any_combination_is_that_of_the_reference(
    name, criterion, damping, loss, seed, lr, momentum, nesterov, weight_decay, decoupled, memory, longest, complement
):
    given = {"lr": lr, "momentum": momentum, "nesterov": nesterov and momentum > 0, "weight_decay": weight_decay}
    given |= {"decoupled_weight_decay": decoupled, "memory": memory, "max_step_norm": longest}
    given["include_complement"] = complement
    assert_like_reference(name, CRITERIA[criterion], DAMPINGS[damping], 3, loss, seed, **given)


@pytest.mark.parametrize("given", FEATURES, ids=str)
def test_the_predicted_decrease_is_that_of_the_quadratic_model(given):
    """By the dense matrix, along the move that was made; along held directions, with the curvature they know."""
    model, loss_function, X, y = problem("wide")
    group = {"params": ["*"], "criterion": CRITERIA["all"], "damping": DAMPINGS["uniform"], "lr": 0.5, **given}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], full_report=True)
    decay, ggn = given.get("weight_decay", 0.0), None
    for step in range(3):
        before = parameters_to_vector(model.parameters()).detach().clone()
        twin = Reference(copy.deepcopy(model), loss_function, X, y, {}, {})
        train_step(optimizer, model, loss_function, X, y)
        move = parameters_to_vector(model.parameters()).detach() - before
        if given.get("decoupled_weight_decay"):
            move = move + 0.5 * given["decoupled_weight_decay"] * before
        (report,) = optimizer.last_step
        assert report.refreshed or step > 0
        ggn = twin.ggn() if report.refreshed else ggn
        gradient = twin.gradient() + decay * before
        bend = float(move @ ggn @ move + decay * move @ move)
        assert report.predicted_decrease == pytest.approx(-float(gradient @ move) - 0.5 * bend, rel=1e-6)
        assert float(report.step_norm) * report.lr * report.clip == pytest.approx(float(move.norm()), rel=1e-6)


def test_weight_decay_is_what_autograd_says_of_the_penalty():
    """The step on loss + w/2 ‖θ‖², whose GGN is G + w I: one solve with the dense matrix."""
    w = 0.2
    model, loss_function, X, y = problem("wide")
    theta = parameters_to_vector(model.parameters()).detach().clone()
    twin = Reference(copy.deepcopy(model), loss_function, X, y, {}, {})
    matrix = twin.ggn() + (w + DELTA) * torch.eye(len(theta)).double()
    expected = theta - torch.linalg.solve(matrix, twin.gradient() + w * theta)
    group = {"params": ["*"], "criterion": CRITERIA["all"], "damping": DAMPINGS["uniform"], "weight_decay": w}
    train_step(DirectionalDampedNewton(model.named_parameters(), [group]), model, loss_function, X, y)
    torch.testing.assert_close(parameters_to_vector(model.parameters()).detach(), expected, rtol=1e-8, atol=1e-10)


def test_memory_is_spring():
    """Goldshlager et al. 2024: the minimizer of ‖Vᵀs + c‖² + δ ‖s - μ s_prev‖²."""
    model, loss_function, X, y = problem("wide")
    group = {"params": ["*"], "criterion": CRITERIA["all"], "damping": DAMPINGS["uniform"], "memory": 0.9}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group])
    previous = torch.zeros(sum(p.numel() for p in model.parameters())).double()
    for _ in range(3):
        before = parameters_to_vector(model.parameters()).detach().clone()
        twin = Reference(copy.deepcopy(model), loss_function, X, y, {}, {})
        matrix = twin.ggn() + DELTA * torch.eye(len(before)).double()
        expected = torch.linalg.solve(matrix, DELTA * 0.9 * previous - twin.gradient())
        train_step(optimizer, model, loss_function, X, y)
        previous = parameters_to_vector(model.parameters()).detach() - before
        torch.testing.assert_close(previous, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("given", [{}, {"weight_decay": 0.1, "memory": 0.7}, {"every": 2}], ids=str)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "curvature",
    [{"kind": "ggn-mc", "mc_samples": 2, "seed": 0}, {"subsampling_ggn": [0, 2]}],
    ids=["mc", "sub-sampled"],
)
def test_the_rest_of_the_gradient_makes_it_the_whole_damped_step(curvature, name, given):
    """Where the gradient is not in the span of V: -(G + δ I)⁻¹ g for the very G that was sampled, by a dense solve."""
    model, loss_function, X, y = problem(name)
    given = {"include_complement": True, **given}
    group = {"params": ["*"], "criterion": CRITERIA["all"], "damping": DAMPINGS["uniform"], **given}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], curvature=curvature, full_report=True)
    w, mu = given.get("weight_decay", 0.0), given.get("memory", 0.0)
    previous = torch.zeros(sum(p.numel() for p in model.parameters())).double()
    for step in range(3):
        before = parameters_to_vector(model.parameters()).detach().clone()
        twin = Reference(copy.deepcopy(model), loss_function, X, y, {}, {})
        optimizer.zero_grad()
        with optimizer.curvature():
            loss_function(model(X), y).backward()
        if optimizer.refreshes(0):
            ggn = dense_of_pass(optimizer, model)
        optimizer.step()
        (report,) = optimizer.last_step
        assert report.refreshed == ("every" not in given or step % 2 == 0)
        if report.refreshed:  # directions of a solved step are decomposed when they are read
            vectors = torch.linalg.eigh(ggn).eigenvectors[:, -len(report.gammas) :]
            gammas = (twin.gradient() + w * before) @ vectors
            torch.testing.assert_close(report.gammas.abs(), gammas.abs(), rtol=1e-6, atol=1e-8)
        move = parameters_to_vector(model.parameters()).detach() - before
        matrix = ggn + (w + DELTA) * torch.eye(len(before)).double()
        expected = torch.linalg.solve(matrix, DELTA * mu * previous - twin.gradient() - w * before)
        torch.testing.assert_close(move, expected, rtol=1e-7, atol=1e-9)
        previous = move


def dense_of_pass(optimizer, model):
    """The GGN of a pass, `[P, P]` in the order of the parameters, from the columns of V."""
    curvature = GroupCurvature.of(optimizer._passes.result().directions, list(model.parameters()))
    columns = curvature.formed()
    places = torch.arange(columns.shape[1], dtype=torch.float64)
    order = torch.cat([part[0].flatten() for part in curvature.unflatten(places[None])]).long()
    return columns[:, order].T @ columns[:, order]


def test_strategies_see_the_weight_decay():
    """A damping is given the derivatives of the loss with its penalty; their means over samples are the loss's."""
    seen = []

    def damping(evals, evecs, gammas, lambdas):
        seen.append((gammas.clone(), lambdas.clone()))
        return torch.full_like(evals, DELTA)

    for loss in ("cross-entropy", "mse"):
        model, loss_function, X, y = problem("wide", loss)
        group = {"params": ["*"], "criterion": CRITERIA["top"], "damping": damping, "weight_decay": 0.5}
        optimizer = DirectionalDampedNewton(model.named_parameters(), [group])
        train_step(optimizer, model, loss_function, X, y)
        (report,) = optimizer.last_step
        reduce = torch.mean if loss == "cross-entropy" else torch.sum
        for own, told in zip(seen[-1], (report.gammas, report.lambdas), strict=True):
            torch.testing.assert_close(reduce(own, 0), told)
        torch.testing.assert_close(report.lambdas, report.evals + 0.5)


def test_directions_are_reused_and_only_then_is_there_no_curvature():
    model, loss_function, X, y = problem("wide")
    groups = [
        {"params": ["0.*"], "criterion": CRITERIA["top"], "damping": DAMPINGS["uniform"], "every": 3},
        {"params": ["*"], "criterion": CRITERIA["all"], "damping": DAMPINGS["uniform"]},
    ]
    optimizer = DirectionalDampedNewton(model.named_parameters(), groups, lr=0.3)
    refreshed, evals = [], []
    for _ in range(7):
        train_step(optimizer, model, loss_function, X, y)
        refreshed.append([report.refreshed for report in optimizer.last_step])
        evals.append(optimizer.last_step[0].evals)
    assert refreshed == [[step % 3 == 0, True] for step in range(7)]
    assert torch.equal(evals[0], evals[2])
    assert not torch.equal(evals[2], evals[3])


def test_no_pass_is_made_for_curvature_that_nobody_wants(monkeypatch):
    model, loss_function, X, y = problem("wide")
    group = {"params": ["*"], "criterion": CRITERIA["top"], "damping": DAMPINGS["uniform"], "every": 2}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group])
    counts, carry = [], carried.carry

    def counting(sources, targets, cotangents, widest):
        counts[-1] += len(cotangents[0])
        return carry(sources, targets, cotangents, widest)

    monkeypatch.setattr(carried, "carry", counting)
    for _ in range(4):
        counts.append(0)
        train_step(optimizer, model, loss_function, X, y)
    assert [count > 0 for count in counts] == [True, False, True, False]


def test_a_reused_step_predicts_with_the_weight_decay_once():
    """The held curvatures include the decay, and the model adds the decay of the whole move: it must not count twice."""
    decay = 0.4
    given = {"every": 2, "weight_decay": decay}
    model, loss_function, X, y = problem("wide")
    reference = Reference(
        copy.deepcopy(model), copy.deepcopy(loss_function), X, y, CRITERIA["top"], DAMPINGS["uniform"], **given
    )
    group = {"params": ["*"], "criterion": CRITERIA["top"], "damping": DAMPINGS["uniform"], **given}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], full_report=True)
    train_step(optimizer, model, loss_function, X, y)
    reference.step()
    slopes = reference.gradient() + decay * reference.theta
    train_step(optimizer, model, loss_function, X, y)
    reference.step()
    vectors, lambdas, _ = reference.kept
    move = reference.previous
    curvature = (lambdas - decay) @ (vectors.T @ move).square() + decay * move.square().sum()
    assert not optimizer.last_step[0].refreshed
    assert optimizer.last_step[0].predicted_decrease == pytest.approx(-float(slopes @ move + curvature / 2), rel=1e-6)


def test_reused_directions_need_a_gradient():
    model, loss_function, X, y = problem("wide")
    group = {"params": ["*"], "criterion": CRITERIA["top"], "damping": DAMPINGS["uniform"], "every": 2}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group])
    train_step(optimizer, model, loss_function, X, y)
    optimizer.zero_grad()
    with optimizer.curvature("directions"):
        loss_function(model(X), y).backward()
    optimizer.zero_grad()
    with pytest.raises(
        CurvatureError,
        match="group 0: this step reuses the directions of an earlier one, but the parameters hold no gradient",
    ):
        optimizer.step()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"momentum": 1.0}, "group 0: momentum: input should be less than 1"),
        ({"momentum": -0.1}, "group 0: momentum: input should be greater"),
        ({"nesterov": True}, "nesterov is true, but momentum is 0"),
        ({"weight_decay": -1.0}, "group 0: weight_decay"),
        ({"weight_decay": float("nan")}, "group 0: weight_decay"),
        ({"every": 0}, "group 0: every"),
        ({"every": 1.5}, "group 0: every"),
        ({"memory": "0.5"}, "group 0: memory"),
        ({"max_step_norm": 0.0}, "group 0: max_step_norm"),
        ({"max_relative_norm": 0.0}, "group 0: max_relative_norm"),
        ({"max_kl": -1.0}, "group 0: max_kl"),
    ],
)
def test_settings_out_of_bounds_are_told(given, message):
    model = problem("wide")[0]
    group = {"params": ["*"], "criterion": CRITERIA["all"], "damping": DAMPINGS["uniform"], **given}
    with pytest.raises(ConfigError, match=message):
        DirectionalDampedNewton(model.named_parameters(), [group])
    with pytest.raises(ConfigError, match=r"groups\.0"):
        parse_config({"groups": [group]})


def test_a_misspelt_setting_is_told():
    group = {"params": ["*"], "criterion": CRITERIA["all"], "damping": DAMPINGS["uniform"], "momentun": 0.9}
    with pytest.raises(ArgumentError, match=r"unknown key 'momentun'\. Did you mean 'momentum'"):
        DirectionalDampedNewton(problem("wide")[0].named_parameters(), [group])


def test_what_the_loss_does_not_reach_is_not_decayed():
    model, loss_function, X, y = problem("wide")
    unused = nn.Parameter(torch.ones(3).double())
    group = {"params": ["*"], "criterion": CRITERIA["all"], "damping": DAMPINGS["uniform"]}
    group |= {"weight_decay": 0.1, "decoupled_weight_decay": 0.1, "momentum": 0.5, "memory": 0.5}
    model[0].bias.requires_grad_(False)
    frozen = model[0].bias.clone()
    optimizer = DirectionalDampedNewton([*model.named_parameters(), ("unused", unused)], [group])
    for _ in range(2):
        train_step(optimizer, model, loss_function, X, y)
    assert torch.equal(unused, torch.ones(3).double())
    assert torch.equal(model[0].bias, frozen)
