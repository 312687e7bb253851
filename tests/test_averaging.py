"""Averaged iterates, the limit on promised decreases, and the damping `fresh-batch`, against dense float64 twins."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddn_core import DirectionalDampedNewton
from ddn_core.api import Damping
from ddn_core.errors import ArgumentError, ConfigError, CurvatureError, NonFiniteError
from ddn_core.optim.planning import DISPLACEMENT
from ddn_core.optim.update import largest_loss
from tests.engine.any_model import Problem, aligned_twin, error, twin

N, D, C, STEPS = 6, 3, 3, 8
TWINS = {"ggn": twin, "ggn-aligned": aligned_twin}


def model_of(outputs=C, hidden=5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).double()


def batches(targets, count=STEPS, samples=N, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(samples, D, generator=generator).double(), targets(samples, generator)) for _ in range(count)]


def classes(samples, generator):
    return torch.randint(0, C, (samples,), generator=generator)


def numbers(samples, generator):
    return torch.randn(samples, C, generator=generator).double()


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def write(model, vector):
    with torch.no_grad():
        for parameter, part in zip(
            model.parameters(), vector.split([p.numel() for p in model.parameters()]), strict=True
        ):
            parameter.copy_(part.view_as(parameter))


def dense(model, batch, loss, kind):
    """Return loss, gradient, GGN and the gradient of each sample, `[N, P]`, whose mean is the gradient."""
    inputs, targets = batch
    found = TWINS[kind](Problem(copy.deepcopy(model), (inputs,), targets, loss, samples=len(inputs)))
    own = copy.deepcopy(model)
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        grads = torch.autograd.grad(loss(own(x[None]), y[None]), list(own.parameters()))
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    value = float(loss(own(inputs), targets).detach())
    return value, found.gradient, found.ggn, torch.stack(rows)


def solve(ggn, delta, right):
    return -torch.linalg.solve(ggn + delta * torch.eye(len(ggn), dtype=ggn.dtype), right)


def run(model, optimizer, data, loss, closure=False):
    for inputs, targets in data:

        def evaluate(inputs=inputs, targets=targets):
            optimizer.zero_grad()
            value = loss(model(inputs), targets)
            value.backward()
            return value

        if closure:
            optimizer.step(evaluate)
        else:
            optimizer.zero_grad()
            optimizer.backward(loss(model(inputs), targets))
            optimizer.step()
        yield flat(model)


@pytest.mark.parametrize("hidden", [5, 1], ids=["gram", "ggn"])
@pytest.mark.parametrize("kind", TWINS)
@pytest.mark.parametrize("lr", [1.0, 0.4])
def test_averaged_steps(kind, hidden, lr):
    """The parameters are an average of the iterate, whose gradient is that of the quadratic model."""
    model, delta, factor = model_of(hidden=hidden), 0.3, 0.8
    own, data = copy.deepcopy(model), batches(classes)
    settings = {"damping": delta, "averaging": factor, "lr": lr}
    optimizer = DirectionalDampedNewton(model.named_parameters(), curvature={"kind": kind}, **settings)
    displacement = torch.zeros_like(flat(model))
    for step, (batch, actual) in enumerate(zip(data, run(model, optimizer, data, F.cross_entropy), strict=True)):
        _, gradient, ggn, _ = dense(own, batch, F.cross_entropy, kind)
        ahead = displacement + solve(ggn, delta, gradient + ggn @ displacement)
        share = lr * (1 - min(factor, step / (step + 2)))
        write(own, flat(own) + share * ahead)
        displacement = (1 - share) * ahead
        assert error(actual, flat(own)) < 1e-8


@pytest.mark.parametrize("criterion", [{"kind": "all"}, {"kind": "top-k", "k": 4}])
def test_the_same_with_a_damping_for_each_direction(criterion):
    """Without the linear solve the step is that of the chosen eigenvectors."""
    model, delta, factor = model_of(), 0.3, 0.8
    own, data = copy.deepcopy(model), batches(classes)

    def damping(evals, evecs, gammas, lambdas):
        return torch.full_like(evals, delta)

    settings = {"damping": damping, "criterion": criterion, "averaging": factor}
    optimizer = DirectionalDampedNewton(model.named_parameters(), **settings)
    displacement = torch.zeros_like(flat(model))
    for step, (batch, actual) in enumerate(zip(data, run(model, optimizer, data, F.cross_entropy), strict=True)):
        _, gradient, ggn, _ = dense(own, batch, F.cross_entropy, "ggn")
        evals, evecs = torch.linalg.eigh(ggn)
        kept = evecs[:, -criterion.get("k", int((evals > 1e-12 * evals.max()).sum())) :]
        inside = kept.T @ ggn @ kept
        right = kept.T @ (gradient + ggn @ displacement)
        ahead = displacement + kept @ solve(inside, delta, right)
        share = 1 - min(factor, step / (step + 2))
        write(own, flat(own) + share * ahead)
        displacement = (1 - share) * ahead
        assert error(actual, flat(own)) < 1e-7


@pytest.mark.parametrize("ratio", [None, 0.05], ids=["free", "limited"])
def test_the_gradient_outside_of_the_span_is_followed(ratio):
    """With Monte-Carlo samples the step is `-(G + δ I)⁻¹ (g + G d)`, and G is that of the drawn columns."""
    model, factor, factors = model_of(), 0.8, []
    own, data = copy.deepcopy(model), batches(classes)
    settings = {"damping": 0.3, "averaging": factor, "include_complement": True, "max_decrease": ratio}
    curvature = {"kind": "ggn-mc", "mc_samples": 2, "seed": 0}
    optimizer = DirectionalDampedNewton(model.named_parameters(), curvature=curvature, **settings)
    displacement = torch.zeros_like(flat(model))
    for step, (inputs, targets) in enumerate(data):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.backward(loss)
        directions = optimizer.directions()
        columns = torch.cat([part.flatten(1) for part in directions.eigenvectors()], dim=1)
        ggn = columns.T @ torch.diag(directions.evals) @ columns
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        optimizer.step()
        delta, slope = 0.3, gradient + ggn @ displacement
        change = float(gradient @ displacement + 0.5 * displacement @ ggn @ displacement)
        largest = math.inf if ratio is None else ratio * (float(loss.detach()) + max(0.0, change))
        while -slope @ solve(ggn, delta, slope) > largest:
            delta *= 4
        factors.append(optimizer.last_step[0].damping_factor)
        assert factors[-1] == pytest.approx(delta / 0.3)
        ahead = displacement + solve(ggn, delta, slope)
        share = 1 - min(factor, step / (step + 2))
        write(own, flat(own) + share * ahead)
        displacement = (1 - share) * ahead
        assert error(flat(model), flat(own)) < 1e-7
    assert (len(set(factors)) > 1) == (ratio is not None)


def test_groups_have_their_own_average():
    model, data = model_of(), batches(classes)
    names = ("0.*", "2.*")
    groups = [
        {"params": [name], "criterion": "all", "damping": 0.3, "averaging": factor}
        for name, factor in zip(names, (0.8, 0.0), strict=True)
    ]
    optimizer = DirectionalDampedNewton(model.named_parameters(), groups)
    own = copy.deepcopy(model)
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in (own[0], own[2])]
    displacements = [torch.zeros(size).double() for size in sizes]
    for step, (batch, actual) in enumerate(zip(data, run(model, optimizer, data, F.cross_entropy), strict=True)):
        _, gradient, ggn, _ = dense(own, batch, F.cross_entropy, "ggn")
        moves, start = [], 0
        for place, (size, factor) in enumerate(zip(sizes, (0.8, 0.0), strict=True)):
            part = slice(start, start + size)
            block, slope = ggn[part, part], gradient[part]
            ahead = displacements[place] + solve(block, 0.3, slope + block @ displacements[place])
            share = 1 - min(factor, step / (step + 2))
            displacements[place] = (1 - share) * ahead
            moves.append(share * ahead)
            start += size
        write(own, flat(own) + torch.cat(moves))
        assert error(actual, flat(own)) < 1e-8


@pytest.mark.parametrize(("samples", "factor"), [(6, 0.97), (64, 0.9), (320, 0.5), (1000, 0.5)])
def test_the_automatic_average_depends_on_the_batch_size(samples, factor):
    model = model_of()
    settings = {"damping": 0.3, "averaging": "auto"}
    optimizer = DirectionalDampedNewton(model.named_parameters(), curvature={"kind": "ggn-aligned"}, **settings)
    shares = []
    for _ in run(model, optimizer, batches(classes, 3, samples), F.cross_entropy):
        shares.append(optimizer.last_step[0].share)
    assert shares == pytest.approx([1 - min(factor, step / (step + 2)) for step in range(3)])
    optimizer._progress.step_count = 1000
    for _ in run(model, optimizer, batches(classes, 1, samples), F.cross_entropy):
        assert optimizer.last_step[0].share == pytest.approx(1 - factor)


def test_a_clipped_step_pulls_the_iterate_back():
    model, data = model_of(), batches(classes)
    settings = {"damping": 0.01, "averaging": 0.8, "max_step_norm": 0.05}
    optimizer = DirectionalDampedNewton(model.named_parameters(), **settings)
    before = flat(model)
    for after in run(model, optimizer, data, F.cross_entropy):
        report = optimizer.last_step[0]
        moved = after - before
        assert moved.norm() <= 0.05 * (1 + 1e-9)
        left = torch.cat([optimizer.state[p][DISPLACEMENT].flatten() for p in model.parameters()])
        torch.testing.assert_close(left * report.share, moved * (1 - report.share), rtol=1e-9, atol=1e-12)
        before = after


@pytest.mark.parametrize("other", ["memory", "momentum"])
def test_it_excludes_memory_and_momentum(other):
    with pytest.raises(ConfigError, match=f"averaging and {other} are both set"):
        DirectionalDampedNewton(model_of().named_parameters(), damping=0.1, averaging=0.9, **{other: 0.5})


@dataclass
class Rule:
    """The rule of the preset `averaged`, dense, as the documentation has it."""

    model: nn.Module
    kind: str
    factor: float
    step: int = 0
    d: torch.Tensor = None
    by_model: float = 1.0
    by_noise: float = 1e-2
    at_average: float = None
    at_iterate: float = None
    limited: list = field(default_factory=list)

    def make(self, batch, loss, closure):
        theta = flat(self.model)
        d = torch.zeros_like(theta) if self.d is None else self.d
        value, gradient, ggn, rows = dense(self.model, batch, loss, self.kind)
        beta = min(self.factor, self.step / (self.step + 2))
        unit = float(rows.square().sum(1).mean()) / value
        change = float(gradient @ d + 0.5 * d @ ggn @ d)
        if d.any():
            self.at_average = 0.9 * (self.at_average or value) + 0.1 * value
            iterate = min(max(value + change, 0.0), 10 * self.at_average)
            self.at_iterate = 0.9 * (self.at_iterate or value) + 0.1 * iterate
            excess = math.log(max(self.at_iterate / self.at_average, 1e-3))
            gain = 0.5 if closure and excess < 0 else 0.2
            log = gain * max(-1.0, min(1.0, excess - math.log(1.4)))
            self.by_noise = min(max(self.by_noise * math.exp(log), 1e-6), 1e3)
        slope = gradient + ggn @ d
        for _ in range(6 if closure else 1):
            mu, is_limited = max(self.by_model, self.by_noise), False
            s = solve(ggn, mu * unit, slope)
            while -slope @ s > 4 * max(value, value + change):
                mu, is_limited = 4 * mu, True
                s = solve(ggn, mu * unit, slope)
            self.limited.append(is_limited)
            if is_limited:
                self.by_noise = min(1e3, 2 * self.by_noise)
            ahead = (d + s) * min(1.0, float(0.3 * theta.norm() / ((1 - beta) * (d + s).norm())))
            move = (1 - beta) * ahead
            write(self.model, theta + move)
            if not closure:
                self.by_model = max(self.by_model / 1.5, 1e-6)
                break
            predicted = float(gradient @ move + 0.5 * move @ ggn @ move)
            after = float(loss(self.model(batch[0]), batch[1]).detach())
            wrong = (after - value - predicted) / abs(predicted)
            self.by_model = min(max(3 * mu if wrong > 0.75 else mu / 3 if wrong < 0.25 else mu, 1e-6), 1e3)
            if wrong < 1:
                break
            write(self.model, theta)
        else:
            self.d, self.step = None, self.step + 1
            return
        self.d, self.step = beta * ahead, self.step + 1


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("kind", TWINS)
@pytest.mark.parametrize(("loss", "targets"), [(F.cross_entropy, classes), (F.mse_loss, numbers)])
def test_the_preset_follows_its_rule(loss, targets, kind, closure):
    model = model_of()
    data = batches(targets, 25, samples=8)
    rule = Rule(copy.deepcopy(model), kind, 0.97)
    optimizer = DirectionalDampedNewton(model.named_parameters(), curvature={"kind": kind})
    for place, (batch, actual) in enumerate(zip(data, run(model, optimizer, data, loss, closure), strict=True)):
        rule.make(batch, loss, closure)
        assert error(actual, flat(rule.model)) < 1e-5, place
    damping = optimizer.param_groups[0]["damping"].state_dict()["own"]
    assert (damping["_model"], damping["_noise"]) == pytest.approx((rule.by_model, rule.by_noise), rel=1e-3)


def test_the_limit_on_promised_decreases_raises_the_damping():
    """A confident mistake promises a decrease of many times the loss, if its curvature is next to nothing."""
    model = model_of(2)
    data = [(torch.randn(4, D, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0, 1, 0, 1]))]

    def loss(outputs, targets):
        return F.cross_entropy(30 * outputs, targets)

    def step(**settings):
        own = copy.deepcopy(model)
        optimizer = DirectionalDampedNewton(own.named_parameters(), damping=1e-6, **settings)
        for _ in run(own, optimizer, data, loss):
            return optimizer.last_step[0], flat(own) - flat(model)
        return None

    value, gradient, ggn, _ = dense(model, data[0], loss, "ggn")
    free, _ = step()
    report, moved = step(max_decrease=4.0)
    assert free.damping_factor == 1.0
    expected = 1e-6
    while -gradient @ solve(ggn, expected, gradient) > 4 * value:
        expected *= 4
    assert expected > 1e-5
    assert report.uniform_damping == pytest.approx(expected)
    assert report.damping_factor == pytest.approx(expected / 1e-6)
    assert error(moved, solve(ggn, expected, gradient)) < 1e-6
    each, by_direction = step(max_decrease=4.0, criterion={"kind": "top-k", "k": 100})
    assert each.damping_factor == report.damping_factor
    assert error(by_direction, moved) < 1e-5


def test_a_loss_that_is_not_finite_goes_back():
    model, data = model_of(), batches(classes, 4)
    optimizer = DirectionalDampedNewton(model.named_parameters())
    steps = run(model, optimizer, data, F.cross_entropy)
    next(steps)
    at_first = flat(model)
    next(steps)
    bad = [(data[0][0] * math.nan, data[0][1])]
    noise = optimizer.param_groups[0]["damping"]._noise
    for after in run(model, optimizer, bad, F.cross_entropy):
        assert torch.equal(after, at_first)
    assert optimizer.skipped_steps == 1
    assert optimizer.param_groups[0]["damping"]._noise > 2 * noise
    assert not any(DISPLACEMENT in state for state in optimizer.state.values())
    with pytest.raises(NonFiniteError):
        next(run(model, optimizer, bad, F.cross_entropy))
    for after in run(model, optimizer, data, F.cross_entropy):
        assert after.isfinite().all()


@pytest.mark.parametrize("closure", [False, True])
def test_a_saved_state_goes_on_bit_by_bit(closure):
    model, data = model_of(), batches(classes, 10)
    optimizer = DirectionalDampedNewton(model.named_parameters())
    for _ in run(model, optimizer, data[:5], F.cross_entropy, closure):
        pass
    other = copy.deepcopy(model)
    again = DirectionalDampedNewton(other.named_parameters())
    saved = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(saved["ddn"]["before"][0])
    again.load_state_dict(saved)
    for one, two in zip(
        run(model, optimizer, data[5:], F.cross_entropy, closure),
        run(other, again, data[5:], F.cross_entropy, closure),
        strict=True,
    ):
        assert torch.equal(one, two)
    assert all(map(torch.equal, saved["ddn"]["before"][0], kept))  # the optimizer has copies of its own


def test_units_of_loss_and_parameters_do_not_matter():
    """A loss times 1000 gives the same steps."""
    results = []
    for scale in (1.0, 1000.0):
        model = model_of()
        optimizer = DirectionalDampedNewton(model.named_parameters())
        for _ in run(model, optimizer, batches(classes), lambda z, y, scale=scale: scale * F.cross_entropy(z, y), True):
            pass
        results.append(flat(model))
    assert error(*results) < 1e-8


def test_shorthands_stand_for_plain_groups():
    model = model_of()
    short = DirectionalDampedNewton(model.named_parameters(), damping=0.1, criterion="all", momentum=0.5)
    (group,) = short.param_groups
    assert str(group["damping"]) == "constant(value=0.1)"
    assert str(group["criterion"]) == "all"
    assert (group["momentum"], group["averaging"]) == (0.5, 0.0)
    assert "damping: constant(value=0.1)" in repr(short)
    preset = DirectionalDampedNewton.preset("least-squares", model.named_parameters(), max_step_norm=2.0)
    assert preset.param_groups[0]["damping"].kind == "levenberg-marquardt"
    assert preset.param_groups[0]["max_step_norm"] == 2.0
    own = DirectionalDampedNewton(model.named_parameters(), preset="averaged", averaging=0.5, damping=0.3)
    (group,) = own.param_groups
    assert (group["averaging"], group["max_decrease"], str(group["damping"])) == (0.5, 4.0, "constant(value=0.3)")
    with pytest.raises(ArgumentError, match="there is no preset 'best'"):
        DirectionalDampedNewton(model.named_parameters(), preset="best")
    with pytest.raises(ArgumentError, match="groups and damping are both given"):
        DirectionalDampedNewton(model.named_parameters(), short.param_groups, damping=0.1)


def test_a_closure_without_a_loss_is_like_none():
    """As torch's optimizers allow; a rule that the user set requires the loss."""
    model, data = model_of(), batches(classes, 4)
    other = copy.deepcopy(model)
    one, two = (DirectionalDampedNewton(own.named_parameters()) for own in (model, other))
    for inputs, targets in data:

        def closure(inputs=inputs, targets=targets):
            one.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()

        one.step(closure)
    for _ in run(other, two, data, F.cross_entropy):
        pass
    assert torch.equal(flat(model), flat(other))
    strict = DirectionalDampedNewton(model.named_parameters(), step={"on_increase": "undo"})
    strict.backward(F.cross_entropy(model(data[0][0]), data[0][1]))
    with pytest.raises(ArgumentError, match="returned None instead of the loss"):
        strict.step(lambda: None)
    strict.backward(F.cross_entropy(model(data[0][0]), data[0][1]))
    with pytest.raises(ArgumentError, match="requires the loss after the step"):
        strict.step()


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("hidden", [5, 1], ids=["gram", "ggn"])
def test_the_limit_is_that_of_the_loss_alone(hidden, decay):
    """Weight decay promises a decrease of the penalty, which the loss does not limit; all solvers agree."""
    model = model_of(hidden=hidden)
    batch = batches(classes, 1, samples=12)[0]
    value, gradient, ggn, _ = dense(model, batch, F.cross_entropy, "ggn")
    theta, expected = flat(model), 1e-4

    def step(delta):
        return solve(ggn, delta + decay, gradient + decay * theta)

    while -gradient @ step(expected) > 0.02 * value:
        expected *= 4
    assert expected > 1e-4
    for criterion in ({"kind": "all"}, {"kind": "top-k", "k": 100}):
        own = copy.deepcopy(model)
        settings = {"damping": 1e-4, "criterion": criterion, "max_decrease": 0.02, "weight_decay": decay}
        optimizer = DirectionalDampedNewton(own.named_parameters(), **settings)
        next(run(own, optimizer, [batch], F.cross_entropy))
        assert optimizer.last_step[0].damping_factor == pytest.approx(expected / 1e-4)


def test_near_interpolation_the_preset_needs_no_eigenvectors(monkeypatch):
    """In float32 the smallest damping of the rule is below the rounding of the matrix, and is raised to it."""

    def refuse(*_, **__):
        raise AssertionError("decomposed")

    model = model_of().float()
    inputs = torch.randn(6, D, generator=torch.Generator().manual_seed(1))
    targets = model(inputs).detach() + 1e-3 * numbers(6, torch.Generator().manual_seed(2)).float()
    damping = {"kind": "fresh-batch", "initial": 1e-9, "noise": 1e-9, "lowest": 1e-9}
    optimizer = DirectionalDampedNewton(model.named_parameters(), preset="averaged", damping=damping)
    monkeypatch.setattr(torch.linalg, "eigh", refuse)
    for _ in range(4):
        _, gradient, ggn, _ = dense(
            copy.deepcopy(model).double(), (inputs.double(), targets.double()), F.mse_loss, "ggn-aligned"
        )
        displaced = [optimizer.state[p].get(DISPLACEMENT, torch.zeros_like(p)) for p in model.parameters()]
        d, before = torch.cat([part.detach().flatten() for part in displaced]).double(), flat(model).double()
        next(run(model, optimizer, [(inputs, targets)], F.mse_loss))
        report = optimizer.last_step[0]
        assert report.uniform_damping == pytest.approx(4 * 6**0.5 * 2**-23 * float(ggn.trace()), rel=1e-4)
        ahead = d + solve(ggn, report.uniform_damping, gradient + ggn @ d)
        assert error(flat(model).double() - before, report.share * ahead) < 2e-2


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("hidden", [5, 1], ids=["gram", "ggn"])
def test_the_limit_is_kept_from_where_the_iterate_is(hidden, decay):
    """The slope there promises the decrease: `gᵀs + dᵀG s` for the step s from the displacement d, by either solver."""
    model, delta, factor, ratio = model_of(hidden=hidden), 1e-3, 0.9, 0.4
    own, other, data = copy.deepcopy(model), copy.deepcopy(model), batches(classes, STEPS, samples=12)

    def each(evals, evecs, gammas, lambdas):
        return torch.full_like(evals, delta)

    settings = {"averaging": factor, "max_decrease": ratio, "weight_decay": decay}
    solved = DirectionalDampedNewton(model.named_parameters(), damping=delta, **settings)
    along = DirectionalDampedNewton(other.named_parameters(), damping=each, **settings)
    displacement, factors = torch.zeros_like(flat(model)), []
    pairs = zip(run(model, solved, data, F.cross_entropy), run(other, along, data, F.cross_entropy), strict=True)
    for step, (batch, _) in enumerate(zip(data, pairs, strict=True)):
        value, gradient, ggn, _ = dense(own, batch, F.cross_entropy, "ggn")
        slope = gradient + ggn @ displacement
        penalty = decay * (flat(own) + displacement)
        largest = ratio * max(value, value + float(gradient @ displacement + 0.5 * displacement @ ggn @ displacement))
        expected = delta
        while -slope @ solve(ggn, expected + decay, slope + penalty) > largest:
            expected *= 4
        ahead = displacement + solve(ggn, expected + decay, slope + penalty)
        share = 1 - min(factor, step / (step + 2))
        write(own, flat(own) + share * ahead)
        displacement = (1 - share) * ahead
        for optimizer in (solved, along):
            assert optimizer.last_step[0].damping_factor == pytest.approx(expected / delta)
        assert max(error(flat(model), flat(own)), error(flat(other), flat(own))) < 1e-6
        factors.append(expected / delta)
    assert len(set(factors)) > 1


@pytest.mark.parametrize("largest", [0.0, math.inf])
def test_dampings_of_zero_and_infinity_cannot_grow(largest):
    def damping(evals, evecs, gammas, lambdas):
        return torch.where(torch.arange(len(evals)) > 2, 0.0, largest).to(evals)

    model = model_of()
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=damping, max_decrease=1e-9)
    next(run(model, optimizer, batches(classes, 1), F.cross_entropy))
    assert optimizer.last_step[0].damping_factor == 1.0


def test_a_scheduler_that_sets_momentum_is_told():
    model, data = model_of(), batches(classes, 3)
    optimizer = DirectionalDampedNewton(model.named_parameters())
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    before = flat(model)
    with pytest.raises(ArgumentError, match="cycle_momentum=False"):
        next(run(model, optimizer, data, F.cross_entropy))
    assert torch.equal(flat(model), before)
    calm = DirectionalDampedNewton(model.named_parameters())
    torch.optim.lr_scheduler.OneCycleLR(calm, max_lr=1.0, total_steps=10, cycle_momentum=False)
    next(run(model, calm, data, F.cross_entropy))


class Rooted(nn.Module):
    """A model whose loss is finite and whose gradient is not, once its switch is on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.is_bad = nn.Linear(D, C).double(), False

    def forward(self, x):
        outputs = self.layer(x)
        return outputs + (0 * outputs).sqrt() if self.is_bad else outputs


@pytest.mark.parametrize("settings", [{}, {"damping": 0.1, "step": {"on_nonfinite": "back"}}], ids=["default", "plain"])
def test_a_step_that_is_not_finite_goes_back_once(settings):
    model, data = Rooted(), batches(classes, 2)
    optimizer = DirectionalDampedNewton(model.named_parameters(), **settings)
    at_first = flat(model)
    for _ in run(model, optimizer, data[:1], F.cross_entropy):
        pass
    model.is_bad = True
    assert torch.equal(next(run(model, optimizer, data, F.cross_entropy)), at_first)
    assert optimizer.skipped_steps == 1
    with pytest.raises((NonFiniteError, CurvatureError)):
        next(run(model, optimizer, data, F.cross_entropy))


def test_going_back_forgets_momentum_and_the_state_of_the_fallback():
    model, data = model_of(), batches(classes, 4)
    groups = [{"params": ["0.*"], "criterion": "all", "damping": 0.1, "momentum": 0.5, "every": 2}]
    fallback = {"kind": "sgd", "lr": 0.1, "momentum": 0.9}
    rules = {"on_nonfinite": "back"}
    optimizer = DirectionalDampedNewton(model.named_parameters(), groups, fallback=fallback, step=rules)
    for _ in run(model, optimizer, data, F.cross_entropy):
        pass
    bad = [(data[0][0] * math.nan, data[0][1])]
    next(run(model, optimizer, bad, F.cross_entropy))
    assert not any(optimizer.state.values())
    assert optimizer.refreshes(0)


def test_the_largest_loss_that_counts_as_no_increase():
    """Twice the increase that the groups predict together, and rounding; nothing where no parameters are averaged."""

    def largest(predicted, averaging=0.9):
        groups = [{"averaging": averaging}, {"averaging": 0.0}]
        updates = {place: SimpleNamespace(report=SimpleNamespace(predicted_decrease=one)) for place, one in predicted}
        return largest_loss(groups, updates, -5.0)

    rounding = 5e-6
    assert largest([(0, -0.3), (1, 0.1)]) == pytest.approx(-5.0 + rounding + 0.4, rel=1e-12)
    assert largest([(0, 0.3), (1, -0.1)]) == pytest.approx(-5.0 + rounding, rel=1e-12)
    assert largest([(0, math.nan)]) == pytest.approx(-5.0 + rounding, rel=1e-12)
    assert largest([(0, -0.3)], averaging=0.0) == largest([(1, -0.3)]) == -5.0


@pytest.mark.parametrize("rule", ["undo", "shorten", "search", "damp"])
def test_rules_allow_the_increase_that_the_model_predicts(rule):
    """The iterate has not seen the batch: a step toward it may raise the loss, and the model knows."""
    model, data = model_of(), batches(classes, 2)
    settings = {"damping": 10.0, "averaging": 0.9, "step": {"on_increase": rule}}
    optimizer = DirectionalDampedNewton(model.named_parameters(), **settings)
    next(run(model, optimizer, data, F.cross_entropy, closure=True))
    for parameter in model.parameters():
        optimizer.state[parameter][DISPLACEMENT] = 0.3 * parameter.grad  # uphill
    for _ in run(model, optimizer, data[:1], F.cross_entropy, closure=True):
        report = optimizer.last_step[0]
        assert report.predicted_decrease < 0
        assert report.taken > 0
    assert optimizer.undone_steps == 0


def test_a_shortened_step_shortens_the_way_to_the_iterate():
    model = model_of()
    (batch,) = batches(classes, 1)
    settings = {"damping": 1e-6, "averaging": 0.9, "step": {"on_increase": "shorten", "attempts": 20}}
    optimizer = DirectionalDampedNewton(model.named_parameters(), **settings)
    optimizer._progress.step_count = 5
    before = flat(model)
    next(run(model, optimizer, [batch], lambda z, y: F.cross_entropy(z**3, y), closure=True))
    report = optimizer.last_step[0]
    assert 0 < report.taken < 1
    left = torch.cat([optimizer.state[p][DISPLACEMENT].flatten() for p in model.parameters()])
    torch.testing.assert_close(left * report.share, (flat(model) - before) * (1 - report.share), rtol=1e-9, atol=1e-12)


def test_a_state_of_an_earlier_version_is_loaded():
    model, other, data = model_of(), model_of(), batches(classes, 3)
    settings = {"damping": 1.0, "momentum": 0.5}
    optimizer, later = (DirectionalDampedNewton(own.named_parameters(), **settings) for own in (model, other))
    for _ in run(model, optimizer, data[:2], F.cross_entropy):
        pass
    state = copy.deepcopy(optimizer.state_dict())
    del state["ddn"]["before"]
    for name in ("averaging", "max_decrease", "max_relative_norm"):
        del state["param_groups"][0][name]
    write(other, flat(model))
    later.load_state_dict(state)
    assert (later.step_count, later.param_groups[0]["averaging"]) == (2, 0.0)
    expected = next(run(model, optimizer, data[2:], F.cross_entropy))
    assert torch.equal(next(run(other, later, data[2:], F.cross_entropy)), expected)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"averaging": 0.9}], ids=["plain", "decay", "average"])
def test_the_limit_counts_the_part_of_the_step_outside_of_the_directions(settings):
    """By a solve and along directions alike: the gradient is not in the span of Monte-Carlo columns."""
    model, data = model_of(), batches(classes, 4, samples=6)
    other, start = copy.deepcopy(model), copy.deepcopy(model)
    given = {
        "criterion": "all",
        "include_complement": True,
        "max_decrease": 0.3,
        "curvature": {"kind": "ggn-mc", "seed": 0},
        **settings,
    }
    solved = DirectionalDampedNewton(model.named_parameters(), damping=1e-3, **given)
    along = DirectionalDampedNewton(other.named_parameters(), damping=lambda evals, *_: 0 * evals + 1e-3, **given)
    factors = []
    for _ in zip(run(model, solved, data, F.cross_entropy), run(other, along, data, F.cross_entropy), strict=True):
        assert solved.last_step[0].damping_factor == along.last_step[0].damping_factor
        assert error(flat(model), flat(other)) < 1e-6
        factors.append(solved.last_step[0].damping_factor)
    assert max(factors) > 1
    value, gradient, _, _ = dense(start, data[0], F.cross_entropy, "ggn")
    leading = DirectionalDampedNewton(
        (own := copy.deepcopy(start)).named_parameters(),
        **given | {"criterion": {"kind": "top-k", "k": 1}, "max_decrease": 1.0, "weight_decay": 0.0, "averaging": 0.0},
        damping=1e-3,
    )
    next(run(own, leading, data, F.cross_entropy))
    assert -gradient @ (flat(own) - flat(start)) <= value


@pytest.mark.parametrize(("settings", "is_zero"), [({"memory": 0.9}, True), ({"averaging": 0.9}, False)])
def test_only_an_averaged_iterate_is_displaced(settings, is_zero):
    """The step that memory remembers is no iterate which a strategy could judge."""
    model, seen = model_of(), []

    class Looking(Damping):
        def damp(self, directions):
            seen.append(directions.context.displacement_change)
            return torch.ones_like(directions.evals)

    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=Looking(), criterion="all", **settings)
    for _ in run(model, optimizer, batches(classes, 3), F.cross_entropy):
        pass
    assert seen[:2] == [0.0, 0.0]  # the first step moves the parameters all the way
    assert (seen[2] == 0.0) == is_zero


def test_micro_batches_make_the_step_of_the_whole_batch():
    model, data = model_of(), batches(classes, 6, samples=8)
    other = copy.deepcopy(model)
    whole, parts = (DirectionalDampedNewton(own.named_parameters(), averaging=0.9) for own in (model, other))
    for (inputs, targets), expected in zip(data, run(model, whole, data, F.cross_entropy), strict=True):
        parts.zero_grad()
        for half in (slice(0, 3), slice(3, 8)):
            share = len(targets[half]) / len(targets)
            parts.backward(share * F.cross_entropy(other(inputs[half]), targets[half]))
        parts.step()
        assert error(flat(other), expected) < 1e-7


def test_two_batches():
    """One batch gives the directions, and the other gradient and curvature along them, also for the displacement."""
    model, data, delta = model_of(), batches(classes, 8, samples=8), 0.3
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=delta, averaging=0.8)
    displacement = torch.zeros_like(flat(model))
    for step, (first, second) in enumerate(zip(data[::2], data[1::2], strict=True)):
        start = flat(model)
        _, _, other, _ = dense(model, first, F.cross_entropy, "ggn")
        _, gradient, ggn, _ = dense(model, second, F.cross_entropy, "ggn")
        evals, evecs = torch.linalg.eigh(other)
        kept = evecs[:, evals > 1e-12 * evals.max()]
        lambdas = (kept * (ggn @ kept)).sum(0)
        lengths = kept.T @ displacement
        newton = -(kept.T @ gradient + lambdas * lengths) / (lambdas + delta)
        ahead = displacement + kept @ newton
        for purpose, (inputs, targets) in (("directions", first), ("derivatives", second)):
            optimizer.zero_grad()
            optimizer.backward(F.cross_entropy(model(inputs), targets), purpose=purpose)
        optimizer.step()
        share = 1 - min(0.8, step / (step + 2))
        displacement = (1 - share) * ahead
        assert error(flat(model) - start, share * ahead) < 1e-7
