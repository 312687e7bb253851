"""`torch.amp.GradScaler`, the real one: steps are those without it, whatever the scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from ddn_core import DirectionalDampedNewton
from ddn_core.errors import ArgumentError, CurvatureError, NonFiniteError

CONSTANT = {"kind": "constant", "value": 0.1}
TOP = {"kind": "top-k", "k": 4}
WAYS = [
    pytest.param({"kind": "ggn"}, True, id="exact, unscaled"),
    pytest.param({"kind": "ggn-mc", "mc_samples": 2, "seed": 0}, False, id="Monte-Carlo"),
]


def problem(dtype=torch.float32):
    torch.manual_seed(0)
    tied = nn.Linear(5, 5)
    head = (nn.LayerNorm(8), nn.Linear(8, 5), nn.Tanh(), tied, nn.Tanh(), tied, nn.Tanh(), nn.Linear(5, 3))
    model = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), *head)
    return model.to(dtype), torch.randn(12, 1, 6).to(dtype), torch.randint(0, 3, (12,))


def optimizer_of(model, curvature=None, fallback=None, step=None, globs=("*",), **settings):
    table = {"criterion": "all", "damping": CONSTANT, **settings}
    groups = [{**table, "params": [glob]} for glob in globs]
    return DirectionalDampedNewton(model.named_parameters(), groups, curvature=curvature, fallback=fallback, step=step)


def scaler_of(scale=65536.0, **settings):
    return GradScaler("cpu", init_scale=scale, **settings)


def flat(model):
    return parameters_to_vector(model.parameters()).detach().clone()


def trained(make, use, steps=2, dtype=torch.float64):
    """Return the parameters after some steps of a function of model, optimizer, and data."""
    model, X, y = problem(dtype)
    optimizer = make(model)
    for _ in range(steps):
        optimizer.zero_grad()
        use(model, optimizer, X, y)
    return flat(model), optimizer


@pytest.mark.parametrize(("curvature", "unscaled"), WAYS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"include_complement": True, "weight_decay": 0.1, "max_kl": 1e-2},
        {"criterion": TOP, "momentum": 0.5, "damping": {"kind": "relative", "fraction": 0.2}},
        {"every": 2, "max_decrease": 1.0, "weight_decay": 0.1, "max_kl": 1e-2},
        {"averaging": 0.5, "damping": "fresh-batch", "gradient": "grad"},
    ],
)
def test_a_scaled_step_is_the_step_without_scale(settings, unscaled, curvature):
    scaler, losses = scaler_of(), []

    def make(model):
        return optimizer_of(model, curvature, {"kind": "sgd", "lr": 0.1}, globs=["0.*", "[235].*"], **settings)

    def plainly(model, optimizer, X, y):
        optimizer.backward(cross_entropy(model(X), y))
        losses.append(optimizer.step(lambda: float(cross_entropy(model(X), y).detach())))

    def scaled(model, optimizer, X, y):
        optimizer.backward(scaler.scale(cross_entropy(model(X), y)))
        if unscaled:
            scaler.unscale_(optimizer)
        losses.append(scaler.step(optimizer, lambda: float(cross_entropy(model(X), y).detach())))
        scaler.update()

    (plain, one), (found, other) = trained(make, plainly), trained(make, scaled)
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(losses[2:], losses[:2], rtol=1e-9, atol=0)
    for own, theirs in zip(other.last_step, one.last_step, strict=True):
        torch.testing.assert_close(own.deltas, theirs.deltas, rtol=1e-8, atol=1e-12)
        assert own.predicted_decrease == pytest.approx(theirs.predicted_decrease, rel=1e-6, nan_ok=True)
        torch.testing.assert_close(own.gammas.abs(), theirs.gammas.abs(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("unscaled", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_scale_does_not_divide_the_damping(autocast, unscaled):
    """In float32, and with autocast to bfloat16: the scale is a power of two, and rounds nothing."""
    scaler, norms = scaler_of(), []

    def use(model, optimizer, X, y):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = cross_entropy(model(X), y)
        if optimizer is plain:
            optimizer.backward(loss)
            optimizer.step()
        else:
            optimizer.backward(scaler.scale(loss))
            if unscaled:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        norms.append(float(optimizer.last_step[0].step_norm))

    for index in range(2):
        model, X, y = problem()
        optimizer = optimizer_of(model)
        plain = None if index else optimizer
        use(model, optimizer, X, y)
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    assert all(float(gradient.abs().max()) < 10 for gradient in gradients)  # `.grad` is without scale afterwards


@pytest.mark.parametrize(
    ("way", "unscaled"), [("micro-batches", True), ("blocks", True), ("blocks", False), ("two batches", True)]
)
def test_every_kind_of_pass_may_be_scaled(way, unscaled):
    scaler = scaler_of(512.0)

    def use(model, optimizer, X, y, scale=lambda loss: loss):
        for index, part in enumerate((slice(0, 4), slice(4, 12))):
            loss = cross_entropy(model(X[part]), y[part])
            if way == "micro-batches":
                optimizer.backward(scale(loss * (len(X[part]) / 12)))
            elif way == "blocks":
                with optimizer.curvature(accumulate=True):
                    (scale(loss) / 3).backward()
            else:
                optimizer.zero_grad()
                optimizer.backward(scale(loss), purpose=("directions", "derivatives")[index])

    def plainly(*given):
        use(*given)
        given[1].step()

    def scaled(*given):
        use(*given, scaler.scale)
        if unscaled:
            scaler.unscale_(given[1])
        scaler.step(given[1])
        scaler.update()

    (plain, _), (found, _) = (trained(optimizer_of, own) for own in (plainly, scaled))
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-10)


def test_gradients_may_be_clipped_after_unscale():
    scaler, norm = scaler_of(), 0.05

    def make(model):
        return optimizer_of(model, gradient="grad", include_complement=True)

    def plainly(model, optimizer, X, y):
        optimizer.backward(cross_entropy(model(X), y))
        clip_grad_norm_(model.parameters(), norm)
        optimizer.step()

    def scaled(model, optimizer, X, y):
        optimizer.backward(scaler.scale(cross_entropy(model(X), y)))
        scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), norm)
        scaler.step(optimizer)
        scaler.update()

    torch.testing.assert_close(trained(make, scaled)[0], trained(make, plainly)[0], rtol=1e-6, atol=1e-8)
    with pytest.raises(CurvatureError, match="was changed in place, as by clipping"):
        trained(optimizer_of, scaled)


@pytest.mark.parametrize("rule", ["error", "skip", "back"])
def test_an_overflow_in_float16_skips_the_step_and_lowers_the_scale(rule):
    model, X, y = problem()
    model[3].weight.data *= 5
    optimizer = optimizer_of(model, step={"on_nonfinite": rule})
    scaler, before, skipped = scaler_of(2.0**24, growth_interval=1000), flat(model), 0
    while not optimizer.step_count:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = cross_entropy(model(X), y)
        optimizer.backward(scaler.scale(loss))
        scaler.step(optimizer)
        scaler.update()
        if not optimizer.step_count:
            skipped += 1
            assert torch.equal(flat(model), before)
            assert optimizer.last_step == ()
        assert skipped < 25
    assert optimizer.skipped_steps == skipped > 0
    assert scaler.get_scale() == 2.0 ** (24 - skipped)
    twin = problem()[0]
    vector_to_parameters(before.clone(), twin.parameters())
    plain = optimizer_of(twin)
    plain.backward(cross_entropy(twin(X), y))
    plain.step()
    reference = flat(twin) - before
    assert float((flat(model) - before - reference).norm()) < 0.02 * float(reference.norm())


@pytest.mark.parametrize("rule", ["error", "skip"])
def test_a_scaled_loss_that_is_not_finite_is_a_step_that_is_skipped(rule):
    """As with torch's own optimizers: the gradients are not finite, either, and the scaler finds that."""
    model, X, y = problem()
    optimizer, scaler = optimizer_of(model, step={"on_nonfinite": rule}), scaler_of()
    before = flat(model)
    optimizer.backward(scaler.scale(cross_entropy(model(X * float("nan")), y)))
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(flat(model), before)
    assert (optimizer.skipped_steps, scaler.get_scale()) == (1, 32768.0)
    optimizer.zero_grad()
    optimizer.backward(torch.tensor(2.0) * cross_entropy(model(X * float("nan")), y))
    if rule == "error":
        with pytest.raises(NonFiniteError, match="the loss is not finite"):
            optimizer.step()  # without a scaler
    else:
        optimizer.step()
    assert torch.equal(flat(model), before)


def test_what_a_scaler_cannot_do_is_an_error():
    model, X, y = problem()
    optimizer, scaler, before = optimizer_of(model), scaler_of(), flat(model)
    scaler.scale(torch.ones(()))

    def closure():
        optimizer.zero_grad()
        loss = scaler.scale(cross_entropy(model(X), y))
        loss.backward()
        return loss

    with pytest.raises(ArgumentError, match=r"Call optimizer.backward\(scaler.scale\(loss\)\) first"):
        scaler.step(optimizer, closure)
    for factors in ((), (torch.tensor(65536.0), torch.tensor(2.0))):  # not scaled, and by which of the two?
        scaler = scaler_of()
        scaler.scale(torch.ones(()))
        optimizer.zero_grad()
        loss = cross_entropy(model(X), y)
        for factor in factors:
            loss = factor * loss
        optimizer.backward(loss)
        scaler.unscale_(optimizer)
        with pytest.raises(CurvatureError, match=r"the scale of the loss cannot be found in its graph"):
            scaler.step(optimizer)
    assert torch.equal(flat(model), before)
    optimizer.zero_grad()  # an error leaves no scale behind
    optimizer.backward(cross_entropy(model(X), y))
    optimizer.step()
    twin = problem()[0]
    plain = optimizer_of(twin)
    plain.backward(cross_entropy(twin(X), y))
    plain.step()
    assert torch.equal(flat(model), flat(twin))


def test_a_scaler_that_is_switched_off_changes_nothing():
    model, X, y = problem()
    optimizer, scaler, before = optimizer_of(model), GradScaler("cpu", enabled=False), flat(model)
    optimizer.backward(scaler.scale(cross_entropy(model(X), y)))
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.step_count == 1
    assert not torch.equal(flat(model), before)
