"""Loss functions: found in any graph, with the root of their Hessian and their gradient in its span, against autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.nn import functional

from ddn_core import DirectionalDampedNewton
from ddn_core.engine.capture.graph import Reach
from ddn_core.engine.losses import recognize
from ddn_core.engine.losses.bernoulli import BinaryCrossEntropy
from ddn_core.engine.losses.cross_entropy import CrossEntropy
from ddn_core.engine.losses.recognition import FAMILIES
from ddn_core.engine.losses.squares import SquaredError
from ddn_core.engine.nodes import kind_of
from ddn_core.engine.sample_axis import SampleAxis
from ddn_core.errors import CurvatureError

N, C, T, FLOAT = 4, 3, 2, torch.float64
MAJOR, MINOR = SampleAxis(N), SampleAxis(N, 0, is_major=False)

ce, bce, mse, nll = (
    functional.cross_entropy,
    functional.binary_cross_entropy_with_logits,
    functional.mse_loss,
    functional.nll_loss,
)
CLASSES = torch.tensor([0, 2, 1, 2])
TOKENS = torch.tensor([[0, 2], [1, -100], [2, 2], [-100, 0]])
WEIGHTS = torch.tensor([0.5, 2.0, 1.5], dtype=FLOAT)
SHARES = torch.tensor([1.0, 0.0, 0.5, 2.0], dtype=FLOAT)


def _probabilities(*shape):
    return torch.rand(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(5)).softmax(1)


def _targets(*shape):
    return torch.rand(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(6))


def _log_softmax(outputs):
    return outputs.log_softmax(1)


ROWS, POSITIONS, FLAT = (N, C), (N, C, T), (N * T, C)

# how the loss is written: shape of the output, axis of the samples, the loss, and the reduction that is found
CROSS_ENTROPIES = {
    "mean": (ROWS, MAJOR, lambda z: ce(z, CLASSES), "mean"),
    "sum": (ROWS, MAJOR, lambda z: ce(z, CLASSES, reduction="sum"), "sum"),
    "mean of the unreduced": (ROWS, MAJOR, lambda z: ce(z, CLASSES, reduction="none").mean(), "mean"),
    "sum of the unreduced": (ROWS, MAJOR, lambda z: ce(z, CLASSES, reduction="none").sum(), "sum"),
    "sum over N": (ROWS, MAJOR, lambda z: ce(z, CLASSES, reduction="sum") / N, "mean"),
    "weights of samples": (ROWS, MAJOR, lambda z: (SHARES * ce(z, CLASSES, reduction="none")).sum(), "sum"),
    "weighted mean of samples": (ROWS, MAJOR, lambda z: (SHARES * ce(z, CLASSES, reduction="none")).mean(), "mean"),
    "product with weights": (ROWS, MAJOR, lambda z: SHARES @ ce(z, CLASSES, reduction="none"), "sum"),
    "some samples": (ROWS, MAJOR, lambda z: ce(z, CLASSES, reduction="none")[1:3].sum(), "sum"),
    "masked samples": (ROWS, MAJOR, lambda z: ce(z, CLASSES, reduction="none")[SHARES > 0].mean(), "mean"),
    "a constant factor": (ROWS, MAJOR, lambda z: 3 * ce(z, CLASSES), "mean"),
    "a constant beside it": (ROWS, MAJOR, lambda z: 1.5 + ce(z, CLASSES, reduction="sum"), "sum"),
    "zero": (ROWS, MAJOR, lambda z: 0 * ce(z, CLASSES), "mean"),
    "class weights": (ROWS, MAJOR, lambda z: ce(z, CLASSES, weight=WEIGHTS), "mean"),
    "class weights, sum": (ROWS, MAJOR, lambda z: ce(z, CLASSES, weight=WEIGHTS, reduction="sum"), "sum"),
    "an ignored class": (ROWS, MAJOR, lambda z: ce(z, CLASSES, ignore_index=2), "mean"),
    "smoothed": (ROWS, MAJOR, lambda z: ce(z, CLASSES, label_smoothing=0.1), "mean"),
    "smoothed, sum": (ROWS, MAJOR, lambda z: ce(z, CLASSES, label_smoothing=0.3, reduction="sum"), "sum"),
    "smoothed, with class weights": (ROWS, MAJOR, lambda z: ce(z, CLASSES, WEIGHTS, label_smoothing=0.2), "mean"),
    "probabilities": (ROWS, MAJOR, lambda z: ce(z, _probabilities(*ROWS)), "mean"),
    "probabilities, sum": (ROWS, MAJOR, lambda z: ce(z, _probabilities(*ROWS), reduction="sum"), "sum"),
    "targets that sum to another number": (ROWS, MAJOR, lambda z: ce(z, 2 * _targets(*ROWS)), "mean"),
    "nll_loss": (ROWS, MAJOR, lambda z: nll(_log_softmax(z), CLASSES), "mean"),
    "nll_loss with class weights": (ROWS, MAJOR, lambda z: nll(_log_softmax(z), CLASSES, WEIGHTS.to(z)), "mean"),
    "picked log-probabilities": (ROWS, MAJOR, lambda z: -_log_softmax(z)[torch.arange(N), CLASSES].mean(), "mean"),
    "gathered log-probabilities": (ROWS, MAJOR, lambda z: -_log_softmax(z).gather(1, CLASSES[:, None]).sum(), "sum"),
    "expected log-probabilities": (ROWS, MAJOR, lambda z: -(_probabilities(*ROWS) * _log_softmax(z)).sum(), "sum"),
    "kl_div": (
        ROWS,
        MAJOR,
        lambda z: functional.kl_div(_log_softmax(z), _probabilities(*ROWS), reduction="batchmean"),
        "mean",
    ),
    "positions": (POSITIONS, MAJOR, lambda z: ce(z, TOKENS), "mean"),
    "positions, sum": (POSITIONS, MAJOR, lambda z: ce(z, TOKENS, reduction="sum"), "sum"),
    "positions, smoothed": (POSITIONS, MAJOR, lambda z: ce(z, TOKENS, label_smoothing=0.1), "mean"),
    "flat positions": (FLAT, MAJOR, lambda z: ce(z, TOKENS.flatten()), "mean"),
    "flat positions, samples minor": (FLAT, MINOR, lambda z: ce(z, TOKENS.T.flatten()), "mean"),
    "log-probabilities along the last axis": (
        (N, T, C),
        MAJOR,
        lambda z: nll(z.log_softmax(-1).transpose(1, 2), TOKENS),
        "mean",
    ),
}
SQUARES = {
    "mean": (ROWS, MAJOR, lambda z: mse(z, _targets(*ROWS)), "mean"),
    "sum": (ROWS, MAJOR, lambda z: mse(z, _targets(*ROWS), reduction="sum"), "sum"),
    "module": (ROWS, MAJOR, lambda z: nn.MSELoss()(z, _targets(*ROWS)), "mean"),
    "half the sum over N": (ROWS, MAJOR, lambda z: 0.5 / N * mse(z, _targets(*ROWS), reduction="sum"), "sum"),
    "weights of entries": (ROWS, MAJOR, lambda z: (WEIGHTS * mse(z, _targets(*ROWS), reduction="none")).mean(), "mean"),
    "a mean of means": (ROWS, MAJOR, lambda z: mse(z, _targets(*ROWS), reduction="none").mean(1).mean(), "mean"),
    "more axes": (POSITIONS, MAJOR, lambda z: mse(z, _targets(*POSITIONS)), "mean"),
    "one number for each sample": ((N,), MAJOR, lambda z: mse(z, _targets(N)), "mean"),
    "samples minor": (FLAT, MINOR, lambda z: mse(z, _targets(*FLAT), reduction="sum"), "sum"),
}
BINARY = {
    "mean": (ROWS, MAJOR, lambda z: bce(z, _targets(*ROWS)), "mean"),
    "sum": (ROWS, MAJOR, lambda z: bce(z, _targets(*ROWS).round(), reduction="sum"), "sum"),
    "module": (ROWS, MAJOR, lambda z: nn.BCEWithLogitsLoss()(z, _targets(*ROWS)), "mean"),
    "positive weights": (ROWS, MAJOR, lambda z: bce(z, _targets(*ROWS), pos_weight=WEIGHTS), "mean"),
    "weights": (ROWS, MAJOR, lambda z: bce(z, _targets(*ROWS), weight=SHARES[:, None]), "mean"),
    "both, sum": (
        ROWS,
        MAJOR,
        lambda z: bce(z, _targets(*ROWS), weight=SHARES[:, None], pos_weight=WEIGHTS, reduction="sum"),
        "sum",
    ),
    "unreduced": (ROWS, MAJOR, lambda z: (SHARES[:, None] * bce(z, _targets(*ROWS), reduction="none")).sum(), "sum"),
    "one number for each sample": ((N,), MAJOR, lambda z: bce(z, _targets(N)), "mean"),
    "positions": (POSITIONS, MAJOR, lambda z: bce(z, _targets(*POSITIONS)), "mean"),
    "samples minor": (FLAT, MINOR, lambda z: bce(z, _targets(*FLAT)), "mean"),
}
LOSSES = {
    f"{family.__name__}: {name}": (family, *case)
    for family, cases in ((CrossEntropy, CROSS_ENTROPIES), (SquaredError, SQUARES), (BinaryCrossEntropy, BINARY))
    for name, case in cases.items()
}


def _outputs(*shape):
    return torch.randn(*shape, dtype=FLOAT).requires_grad_()


def _recognized(loss, outputs, scale=1.0):
    reach = Reach({id(outputs)})
    reach.visit(loss.grad_fn)
    return recognize(loss, reach.leads, scale)


def _hessians(make_loss, outputs, layout):
    """Return the Hessian of each sample, `[N, E, E]`, and check that there is nothing between two samples."""
    whole = hessian(make_loss, outputs.detach()).reshape(outputs.numel(), outputs.numel())
    places = layout.split(torch.arange(outputs.numel()).reshape(outputs.shape)).flatten(1)  # [N, E]
    apart = torch.stack([whole[own[:, None], own] for own in places])
    torch.testing.assert_close(apart.square().sum(), whole.square().sum())
    return apart


def _columns(root, layout):
    """Return a root `[C, *output]` as the columns of each sample, `[N, C, E]`."""
    return layout.split(root, 1).flatten(2)


@pytest.mark.parametrize("name", LOSSES)
def test_the_root_and_the_gradient_in_its_span(name):
    """`S Sᵀ` is the Hessian of each sample by autograd, and `S c` its gradient."""
    family, shape, layout, make_loss, reduction = LOSSES[name]
    outputs = _outputs(*shape)
    loss = make_loss(outputs)
    found = _recognized(loss, outputs)
    assert type(found.term) is family
    assert found.reduction == reduction
    assert found.output.node.variable is outputs
    columns = _columns(found.term.exact(layout), layout)
    assert columns.shape[1] == layout.elements(shape)
    torch.testing.assert_close(columns.mT @ columns, _hessians(make_loss, outputs, layout))
    coefficients = found.term.coefficients(layout)
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert coefficients.shape == columns.shape[:2]
    torch.testing.assert_close(torch.einsum("nce,nc->ne", columns, coefficients), layout.split(gradient).flatten(1))


@pytest.mark.parametrize("name", LOSSES)
def test_monte_carlo_columns_have_the_hessian_as_their_mean(name):
    """With 20,000 draws; the largest relative error that was seen is 0.019."""
    _, shape, layout, make_loss, _ = LOSSES[name]
    outputs = _outputs(*shape)
    term = _recognized(make_loss(outputs), outputs).term
    root = term.sampled(20_000, torch.Generator().manual_seed(0))
    assert root.shape == (20_000, *shape)
    columns, expected = _columns(root, layout), _hessians(make_loss, outputs, layout)
    assert float((columns.mT @ columns - expected).norm()) <= 0.05 * float(expected.norm())


@pytest.mark.parametrize("name", ["CrossEntropy: mean", "SquaredError: sum", "BinaryCrossEntropy: positive weights"])
def test_a_constant_times_the_backward_pass_scales_the_term(name):
    """As in `loss.backward(gradient)`, and by a gradient scaler."""
    _, shape, layout, make_loss, _ = LOSSES[name]
    outputs = _outputs(*shape)
    plain = _recognized(make_loss(outputs), outputs).term
    scaled = _recognized(make_loss(outputs), outputs, torch.tensor(4.0)).term
    torch.testing.assert_close(scaled.exact(layout), 2 * plain.exact(layout))
    torch.testing.assert_close(scaled.coefficients(layout), 2 * plain.coefficients(layout))


@pytest.mark.parametrize("gap", [5.0, 50.0, 104.0, 150.0, 300.0, 1e4])
@pytest.mark.parametrize("name", ["classes", "smoothed", "binary"])
def test_a_confident_mistake_in_float32(name, gap):
    """`S c` is the gradient, and no number overflows, however improbable the target is."""
    outputs = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, -gap], [-gap, 0.0, 1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    loss = {
        "classes": lambda z: ce(z, torch.tensor([1, 2, 0, 1])),
        "smoothed": lambda z: ce(z, torch.tensor([1, 2, 0, 1]), label_smoothing=0.1),
        "binary": lambda z: bce(z, torch.tensor([[0.0, 1, 1], [0, 0, 1], [1, 0, 1], [0, 1, 0]])),
    }[name]
    term = _recognized(loss(outputs), outputs).term
    columns, coefficients = _columns(term.exact(MAJOR), MAJOR), term.coefficients(MAJOR)
    assert columns.dtype == coefficients.dtype == torch.float32
    assert bool(torch.isfinite(coefficients.square().sum()))
    (gradient,) = torch.autograd.grad(loss(outputs), outputs)
    product = torch.einsum("nce,nc->ne", columns, coefficients)
    torch.testing.assert_close(product, gradient, rtol=1e-5, atol=1e-6)
    precise = hessian(loss, outputs.detach().double()).diagonal(dim1=0, dim2=2).permute(2, 0, 1) if gap < 300 else None
    if precise is not None:
        torch.testing.assert_close((columns.mT @ columns).double(), precise, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["CrossEntropy: mean", "SquaredError: mean", "BinaryCrossEntropy: mean"])
def test_roots_of_half_precision_outputs_are_in_float32(name, dtype):
    family, shape, layout, _, _ = LOSSES[name]
    outputs = torch.randn(shape, dtype=dtype).requires_grad_()
    targets = CLASSES if family is CrossEntropy else _targets(*shape).to(dtype)
    loss = {CrossEntropy: ce, SquaredError: mse, BinaryCrossEntropy: bce}[family](outputs, targets)
    term = _recognized(loss, outputs).term
    root = term.exact(layout)
    assert root.dtype == term.coefficients(layout).dtype == torch.float32
    double = outputs.detach().double()
    targets = targets if family is CrossEntropy else targets.double()
    expected = _hessians(
        lambda z: {CrossEntropy: ce, SquaredError: mse, BinaryCrossEntropy: bce}[family](z, targets), double, layout
    )
    columns = _columns(root, layout).double()
    assert float((columns.mT @ columns - expected).norm()) < 2 * torch.finfo(dtype).eps * float(expected.norm())


# What is refused


def _loss_of(outputs):
    return mse(outputs, _targets(*outputs.shape))


REFUSED = {
    "l1_loss": (lambda z: functional.l1_loss(z, _targets(*ROWS)), r"no loss function was recognized.*AbsBackward0"),
    "smooth_l1_loss": (
        lambda z: functional.smooth_l1_loss(z, _targets(*ROWS)),
        r"no loss function was recognized.*SmoothL1LossBackward0",
    ),
    "binary_cross_entropy": (
        lambda z: functional.binary_cross_entropy(z.sigmoid(), _targets(*ROWS)),
        r"no loss function was recognized.*binary cross-entropy with logits",
    ),
    "squares by hand": (lambda z: (z - _targets(*ROWS)).square().mean(), "no loss function was recognized"),
    "nll_loss of logits": (lambda z: nll(z, CLASSES), "no loss function was recognized"),
    "the output itself": (lambda z: z.sum(), "no loss function was recognized"),
    "square root": (lambda z: _loss_of(z).sqrt(), r"a function \(SqrtBackward0\) of a loss function"),
    "logarithm": (lambda z: 2 * _loss_of(z).log(), r"a function \(LogBackward0\) of a loss function"),
    "square": (lambda z: _loss_of(z) ** 2, r"a function \(PowBackward0\) of a loss function"),
    "product of two losses": (lambda z: _loss_of(z) * ce(z, CLASSES), r"a function \(MulBackward0\) of a loss"),
    "reciprocal": (lambda z: 1 / _loss_of(z), r"a function \(.*Backward0\) of a loss function"),
    "focal loss": (
        lambda z: ((1 - (-ce(z, CLASSES, reduction="none")).exp()) ** 2 * ce(z, CLASSES, reduction="none")).mean(),
        r"a function \(MulBackward0\) of a loss function",
    ),
    "largest of the losses": (lambda z: ce(z, CLASSES, reduction="none").max(), r"a function \(MaxBackward1\) of a"),
    "penalty on the output": (
        lambda z: _loss_of(z) + 0.1 * z.square().sum(),
        r"has a term, which ends in \w+Backward0",
    ),
    "penalty of one element": (lambda z: _loss_of(z) - z[0, 0], "has a term, which ends in"),
    "two losses": (
        lambda z: _loss_of(z) + ce(z, CLASSES),
        r"has 2 loss functions \((LogSoftmax, MseLoss|MseLoss, LogSoftmax)\)",
    ),
    "one loss twice": (lambda z: _loss_of(z) + _loss_of(2 * z), r"has 2 loss functions \(MseLoss, MseLoss\)"),
    "target of the model": (lambda z: mse(z, z.square()), "both inputs of MseLossBackward0 depend on the parameters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_known_loss(name):
    make_loss, message = REFUSED[name]
    outputs = _outputs(*ROWS)
    with pytest.raises(CurvatureError, match=message):
        _recognized(make_loss(outputs), outputs)


def test_a_function_of_a_user_is_none_of_torch_s():
    """Its name may be that of a loss function."""

    class MseLoss(torch.autograd.Function):
        @staticmethod
        def forward(context, outputs):
            return outputs.abs().sum()

        @staticmethod
        def backward(context, gradient):
            return gradient

    outputs = _outputs(*ROWS)
    loss = MseLoss.apply(outputs)
    assert kind_of(loss.grad_fn) == "function MseLoss" not in FAMILIES
    with pytest.raises(CurvatureError, match="no loss function was recognized"):
        _recognized(loss, outputs)


def test_parameters_elsewhere_in_the_loss_are_of_no_concern():
    """A term that depends on other tensors than the wanted ones is a constant."""
    outputs, others = _outputs(*ROWS), _outputs(*ROWS)
    found = _recognized(_loss_of(outputs) + others.square().sum() + ce(others, CLASSES), outputs)
    assert type(found.term) is SquaredError
    assert found.output.node.variable is outputs


def test_a_sum_over_samples_of_means_is_a_sum():
    outputs = _outputs(*ROWS)
    loss = mse(outputs, _targets(*ROWS), reduction="none").mean(1).sum()
    assert _recognized(loss, outputs).reduction == "sum"


@pytest.mark.parametrize("kind", ["ggn", "ggn-aligned"])
@pytest.mark.parametrize("gap", [4.0, 8.0, 12.0, 14.0, 16.0, 20.0])
def test_a_batch_that_is_fitted_almost_exactly_is_no_error_in_float32(gap, kind):
    """The gradient at the output is then a rounding error, in torch's pass as in ours, and the two differ."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2))
    inputs = torch.randn(64, 6)
    outputs = model(inputs).detach()
    targets = outputs.argmax(1)
    scale = gap / (outputs[:, :1] - outputs[:, 1:]).abs()  # each sample has this gap
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=1.0, curvature={"kind": kind})
    for factor in (1.0, 1.1):
        before = [parameter.detach().clone() for parameter in model.parameters()]
        plain = torch.autograd.grad(
            functional.cross_entropy(factor * scale * model(inputs), targets), model.parameters()
        )
        optimizer.zero_grad()
        optimizer.backward(functional.cross_entropy(factor * scale * model(inputs), targets))
        for parameter, gradient in zip(model.parameters(), plain, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-6 * float(gradient.norm()))
        optimizer.step()
        moved = torch.cat([(own.detach() - old).flatten() for own, old in zip(model.parameters(), before, strict=True)])
        assert float(moved.norm()) <= 2 * float(torch.cat([gradient.flatten() for gradient in plain]).norm())  # δ = 1
