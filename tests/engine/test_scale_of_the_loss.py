"""A loss times any number that float32 has: the step is that of the loss itself, or there is one clear error."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ddn_core import DirectionalDampedNewton
from ddn_core.engine import eigendecompose
from ddn_core.errors import CurvatureError, NonFiniteError
from ddn_plugins.criteria import ALL as CRITERIA
from ddn_plugins.damping import ALL as DAMPINGS
from tests.profiles import examples

POWERS = range(-41, 39)
"""Powers of ten; float32 has numbers from 1e-45 to 3e38, and normal ones from 1e-38."""
NORMAL = range(-35, 36)
"""Powers at which loss, gradient, curvature and damping are normal numbers, so that there is no error."""
NORMAL_WITH_STRATEGY = range(-24, 32)
"""The same powers, where curvatures may be 1e-12 times the largest one and not damped, or dampings 1e6 times as large."""

ROUNDING = 2e-3
"""Largest relative difference of two steps; measured: 2e-4, rounding errors over the smallest kept curvature."""
LOST = 2e-2
"""The same for numbers below the smallest normal one, which have lost digits; measured: 2e-3."""

KINDS = {
    "cross-entropy": lambda output, target: F.cross_entropy(output, target[:, :1].flatten().gt(0).long()),
    "squares": F.mse_loss,
    "binary": lambda output, target: F.binary_cross_entropy_with_logits(output, target.gt(0).float()),
}
SIDES = {"Gram": (9, 8, 12), "GGN": (3, 4, 24)}
"""Inputs, hidden units and samples: the Gram matrix has 36 rows and the GGN 113; the GGN has 28 and the Gram matrix 72."""

TOP = {"kind": "top-k", "k": 4}
MC = {"curvature": {"kind": "ggn-mc", "mc_samples": 2, "seed": 0}}
ALIGNED = {"curvature": {"kind": "ggn-aligned"}}


def groups(scale, criterion=None, damping=None, **settings):
    """Return the table of one group, whose damping is 0.1 times the scale by default."""
    damping = {"kind": "constant", "value": 0.1 * scale} if damping is None else damping
    return {"groups": [{"params": ["*"], "criterion": criterion or {"kind": "all"}, "damping": damping, **settings}]}


def in_units(strategy, scale):
    """Return the table of a strategy for a loss that is multiplied by a scale."""
    own = strategy.in_units(loss=scale)
    return {"kind": own.kind, **own.model_dump()}


def weakest(scale):
    """Return a damping that needs directions."""
    return {"kind": "maximum", "of": [{"kind": "constant", "value": 0.01 * scale}]}


SETTINGS = {
    "constant": lambda c: {"damping": 0.1 * c},
    "relative": lambda c: {"damping": {"kind": "relative", "fraction": 0.1}},
    "averaged": lambda c: {"preset": "averaged"},
    "a full report": lambda c: {"damping": 0.1 * c, "full_report": True},
    "decomposed": lambda c: groups(c, damping=weakest(c)),
    "top 4": lambda c: groups(c, TOP),
    "top 4, complement": lambda c: groups(c, TOP, include_complement=True),
    "top 4, limited": lambda c: groups(c, TOP, {"kind": "constant", "value": 0.01 * c}, max_decrease=0.05),
    "held": lambda c: groups(c, every=2, weight_decay=0.01 * c),
    "two groups": lambda c: {
        "groups": [
            {"params": ["0.*"], "criterion": TOP, "damping": {"kind": "constant", "value": 0.1 * c}},
            {"params": ["2.*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 0.1 * c}},
        ]
    },
    "Monte-Carlo": lambda c: MC | {"damping": 0.1 * c},
    "Monte-Carlo, complement": lambda c: MC | {"damping": 0.1 * c, "include_complement": True},
    "Monte-Carlo, limited": lambda c: MC | {"damping": 0.01 * c, "include_complement": True, "max_decrease": 0.05},
    "aligned": lambda c: ALIGNED | {"damping": 0.1 * c},
    "aligned, top 4": lambda c: ALIGNED | groups(c, TOP),
    "weight decay": lambda c: {"damping": 0.1 * c, "weight_decay": 0.01 * c},
    "memory": lambda c: {"damping": 0.1 * c, "memory": 0.9},
    "momentum": lambda c: {"damping": 0.1 * c, "momentum": 0.9},
    "averaging": lambda c: {"damping": 0.1 * c, "averaging": 0.9, "weight_decay": 0.01 * c},
    "max_step_norm": lambda c: {"damping": 0.1 * c, "max_step_norm": 0.01},
    "max_relative_norm": lambda c: {"damping": 0.1 * c, "max_relative_norm": 0.01},
    "max_kl": lambda c: {"damping": 0.1 * c, "max_kl": 1e-3 * c},
    "max_kl, weight decay": lambda c: {"damping": 0.1 * c, "max_kl": 1e-3 * c, "weight_decay": 0.01 * c},
    "max_decrease": lambda c: {"damping": 0.01 * c, "max_decrease": 0.05},
}
"""Settings for a loss that is multiplied by c."""


STRATEGIES = ("damping ", "criterion ")
"""Beginnings of the names of settings that have a built-in strategy with its defaults."""


def needs_no_value(strategy):
    """Return whether a strategy has a default for each field."""
    return not any(field.is_required() for field in strategy.model_fields.values())


def with_damping(strategy, scale):
    """Return the settings with a damping, for the leading directions."""
    return groups(scale, TOP, in_units(strategy, scale))


def with_criterion(strategy, scale):
    """Return the settings with a criterion."""
    return groups(scale, in_units(strategy, scale))


for _own in filter(needs_no_value, DAMPINGS):
    SETTINGS[f"damping {_own.kind}"] = functools.partial(with_damping, _own())
for _own in filter(needs_no_value, CRITERIA):
    SETTINGS[f"criterion {_own.kind}"] = functools.partial(with_criterion, _own())


def scaled_loss(kind, model, X, y, scale, is_of_outputs):
    """Return the loss of a batch times a scale."""
    if is_of_outputs:
        return F.mse_loss(math.sqrt(scale) * model(X), math.sqrt(scale) * y)
    return scale * KINDS[kind](model(X), y)


@functools.cache
def steps(kind, side, name, scale, is_of_outputs):
    """Return two steps on different batches, and their predicted decreases over the scale.

    Args:
        kind: Loss.
        side: The smaller matrix.
        name: Settings.
        scale: Factor on the loss.
        is_of_outputs: Whether outputs and targets of a squared error have the root of the scale as a factor instead.
    """
    inputs, hidden, samples = SIDES[side]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 3))
    batches = [(torch.randn(samples, inputs), torch.randn(samples, 3)) for _ in range(2)]
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    optimizer = DirectionalDampedNewton(model.named_parameters(), **{"lr": 1.0} | SETTINGS[name](scale))
    decreases = []
    for X, y in batches:
        loss_of_batch = functools.partial(scaled_loss, kind, model, X, y, scale, is_of_outputs)
        optimizer.zero_grad()
        optimizer.backward(loss_of_batch())
        optimizer.step(loss_of_batch if optimizer.requires_closure else None)
        if not optimizer.last_step:  # the preset skips such a step, counts it, and returns NaN
            raise NonFiniteError("the step was skipped.")
        decreases.append(math.fsum(report.predicted_decrease for report in optimizer.last_step) / scale)
    return nn.utils.parameters_to_vector(model.parameters()).detach() - start, decreases


def check_power(kind, side, name, power, is_of_outputs=False):
    """Check the steps of a loss times a power of ten."""
    expected, decreases = steps(kind, side, name, 1.0, is_of_outputs)
    try:
        found, own_decreases = steps.__wrapped__(kind, side, name, 10.0**power, is_of_outputs)
    except CurvatureError:
        assert power not in (NORMAL_WITH_STRATEGY if name.startswith(STRATEGIES) else NORMAL)
        return
    error = float((found - expected).norm() / expected.norm())
    assert error < (ROUNDING if power in NORMAL else LOST), error
    if power in NORMAL:
        assert own_decreases == pytest.approx(decreases, rel=ROUNDING, nan_ok=True)


@examples(20)
@given(
    power=st.sampled_from(POWERS),
    name=st.sampled_from(list(SETTINGS)),
    kind=st.sampled_from(list(KINDS)),
    side=st.sampled_from(list(SIDES)),
)
def test_a_scaled_loss_has_the_same_steps(power, name, kind, side):
    check_power(kind, side, name, power)


@pytest.mark.parametrize(
    ("name", "side", "power"),
    [
        ("constant", "Gram", 36),  # the largest coefficient of a gradient was an absolute number
        ("constant", "GGN", 37),
        ("aligned", "Gram", 36),
        ("relative", "Gram", -29),  # a norm underflowed in the comparison of rounding errors
        ("top 4", "Gram", -29),
        ("averaged", "Gram", -22),  # squares of gradients left the range
        ("averaged", "GGN", -37),
        ("averaged", "Gram", 20),
        ("Monte-Carlo", "Gram", -30),  # products of the gradient with V
        ("Monte-Carlo", "Gram", 28),
        ("Monte-Carlo, complement", "Gram", 26),
        ("Monte-Carlo, limited", "Gram", -33),
        ("weight decay", "Gram", -30),  # weight decay in the columns of V
        ("weight decay", "Gram", 30),
    ],
)
def test_scales_that_once_failed(name, side, power):
    check_power("cross-entropy", side, name, power)


def test_the_bound_of_the_null_space_does_not_overflow():
    assert eigendecompose(torch.tensor([1e37, 1e38, 2e38]).diag()).evals.tolist() == pytest.approx([1e37, 1e38, 2e38])


@pytest.mark.parametrize("scale", [2.0**-80, 2.0**120])
def test_leading_eigenpairs_of_any_scale(scale):
    """A power of two rounds nothing, so that the method makes the same steps."""
    torch.manual_seed(0)
    columns = torch.randn(512, 40) / 64 * torch.logspace(0, -2, 40)
    expected, found = (eigendecompose(factor * columns @ columns.T, 10) for factor in (1.0, scale))
    assert not found.fallbacks
    assert torch.equal(found.evals / scale, expected.evals)
    assert torch.equal(found.evecs, expected.evecs)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "name"), list(enumerate(SETTINGS)))
def test_every_power_of_ten(place, name):
    for power in POWERS[place % 2 :: 2]:  # each power has half of the settings
        check_power(list(KINDS)[power % 3], list(SIDES)[power // 2 % 2], name, power)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SETTINGS if not name.startswith(STRATEGIES)])
def test_outputs_and_targets_of_any_scale(name):
    """A squared error grows with the square of its outputs, while its weights stay as they are.

    Below 1e-38 the loss itself, its gradient and its curvature have lost digits, and the step has no more than they.
    """
    for power in range(-38, POWERS.stop):
        check_power("squares", list(SIDES)[power % 2], name, power, is_of_outputs=True)


@pytest.mark.parametrize("power", [-36, -28, -20, 20, 28, 36])
@pytest.mark.parametrize("settings", [{}, MC, ALIGNED], ids=["exact", "Monte-Carlo", "aligned"])
def test_a_changed_gradient_is_noticed(settings, power):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].weight.register_hook(lambda gradient: 0.5 * gradient)
    optimizer = DirectionalDampedNewton(model.named_parameters(), lr=1.0, damping=10.0**power, **settings)
    with pytest.raises(CurvatureError, match=r"the per-sample gradients of 0\.weight"):
        optimizer.backward(10.0**power * F.mse_loss(model(torch.randn(8, 6)), torch.randn(8, 3)))


def test_a_loss_with_too_small_weights_is_refused():
    model = nn.Linear(6, 3)
    optimizer = DirectionalDampedNewton(model.named_parameters(), lr=1.0, damping=1e-44)
    with pytest.raises(CurvatureError, match=r"the loss was multiplied by 9\.9.*e-44 or has weights of that size"):
        optimizer.backward(1e-43 * F.mse_loss(model(torch.randn(8, 6)), torch.randn(8, 3)))


def test_a_loss_that_vanishes_by_itself_is_no_error():
    """All samples are fitted, so that gradient and curvature vanish, and the step with them."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 88.0)
    optimizer = DirectionalDampedNewton(model.named_parameters(), lr=1.0, damping={"kind": "relative"})
    optimizer.backward(F.binary_cross_entropy_with_logits(model(torch.ones(2, 1)), torch.ones(2, 1)))
    optimizer.step()
    assert 88.0 <= float(model.weight.detach()) < 90.0


@pytest.mark.parametrize("limit", ["max_step_norm", "max_relative_norm"])
def test_a_step_whose_norm_overflows_is_not_limited_to_zero(limit):
    torch.manual_seed(0)
    model = nn.Linear(40, 1, bias=False)
    optimizer = DirectionalDampedNewton(model.named_parameters(), lr=1.0, damping=1e-9, **{limit: 1.0})
    optimizer.backward(F.mse_loss(model(1e-3 * torch.randn(2, 40)), torch.full((2, 1), 1e18)))
    with pytest.raises(NonFiniteError, match="the norm of the step, which a limit needs, is inf"):
        optimizer.step()


def test_a_limit_on_the_decrease_whose_damping_overflows_is_an_error():
    with pytest.raises(NonFiniteError, match=r"the damping that `max_decrease` asks for overflows in torch\.float32"):
        steps.__wrapped__("cross-entropy", "Gram", "top 4, limited", 1e38, False)
