"""Losses and models that give no curvature: one clear error, nothing changed or gradients whole, usable afterwards."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from backpack import backpack, extend
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, parametrizations, prune

from ddn_core import DirectionalDampedNewton, DirectionalDampedNewtonComputation
from ddn_core.engine import capture_loss
from ddn_core.errors import ArgumentError, CurvatureError, NonFiniteError
from ddn_core.testing import dense_twin

DAMPING = 0.1


def _group(model):
    return {
        "params": list(model.parameters()),
        "criterion": {"kind": "all"},
        "damping": {"kind": "constant", "value": DAMPING},
    }


def _mlp():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))


def _classes():
    return torch.tensor([0, 1, 2, 0, 1, 2])


def _extended_pass(model, loss_function, inputs=None, targets=None, loss_map=lambda loss: loss, **settings):
    """Run the flow of BackPACK's users, and return the step."""
    inputs = torch.rand(6, 4) if inputs is None else inputs
    targets = _classes() if targets is None else targets
    computation, group = DirectionalDampedNewtonComputation(**settings), _group(model)
    loss = loss_map(loss_function(model(inputs), targets))
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])):
        loss.backward()
    return computation.get_result(group)


class Functional(nn.Module):
    """Applies an operation that is not a module between two layers."""

    def __init__(self, operation):
        super().__init__()
        self.first, self.second, self.operation = nn.Linear(4, 4), nn.Linear(4, 3), operation

    def forward(self, x):
        return self.second(self.operation(self.first(x)))


class OwnParameter(nn.Module):
    """Has a parameter of its own beside its children."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 3), nn.Parameter(torch.rand(3))

    def forward(self, x):
        return self.layer(x) * self.scale


class Residual(nn.Module):
    """Adds its input to the output of a layer."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.inner(x)


class Transposing(nn.Module):
    """Transposes two axes of equal length by a view."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.second(self.first(x).transpose(1, 2)).flatten(1))


def _reused():
    activation = nn.Tanh()
    return nn.Sequential(nn.Linear(4, 4), activation, nn.Linear(4, 4), activation, nn.Linear(4, 3))


def _pruned():
    model = _mlp()
    prune.random_unstructured(model[0], "weight", 0.5)
    return model


def _spectral():
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 3)).eval()


def _padded(**settings):
    return nn.Sequential(nn.Conv2d(1, 2, 3, **settings), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3))


def _embedded(**settings):
    return nn.Sequential(nn.Embedding(5, 4, **settings), nn.Flatten(), nn.Linear(8, 3))


def _vectors():
    return torch.rand(6, 4)


def _images():
    return torch.rand(6, 1, 4, 4)


def _tokens():
    return torch.arange(12).reshape(6, 2) % 5


MODELS = {
    "softmax": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(dim=1), nn.Linear(4, 3)), _vectors),
    "layer norm": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)), _vectors),
    "functional relu": (lambda: Functional(F.relu), _vectors),
    "functional scale": (lambda: Functional(lambda x: 2 * x), _vectors),
    "residual": (lambda: nn.Sequential(nn.Linear(4, 4), Residual(), nn.Linear(4, 3)), _vectors),
    "own parameter": (OwnParameter, _vectors),
    "reused module": (_reused, _vectors),
    "transposed": (Transposing, lambda: torch.rand(6, 4, 4)),
    "pruned": (_pruned, _vectors),
    "spectral norm": (_spectral, _vectors),
    "circular padding": (lambda: _padded(padding=1, padding_mode="circular"), _images),
    "replicated padding": (lambda: _padded(padding=1, padding_mode="replicate"), _images),
    "same padding": (lambda: _padded(padding="same"), _images),
    "padding token": (lambda: _embedded(padding_idx=0), _tokens),
}


@pytest.mark.parametrize("is_extended", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_models_that_need_no_conversion(name, is_extended):
    """The step is that of the dense twin, with `computation.backward` and in the flow of BackPACK's users."""
    make, make_inputs = MODELS[name]
    model, inputs, targets = make().double(), make_inputs(), _classes()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    twin = dense_twin(model, nn.CrossEntropyLoss(), inputs, targets)
    if is_extended:
        step = _extended_pass(extend(model), extend(nn.CrossEntropyLoss()), inputs, targets)
    else:
        computation, group = DirectionalDampedNewtonComputation(), _group(model)
        computation.backward(F.cross_entropy(model(inputs), targets), [group])
        step = computation.get_result(group)
    expected = twin.step(range(len(twin.evals)), DAMPING)
    torch.testing.assert_close(parameters_to_vector(step), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("extended", ["nothing but the loss", "a layer", "all"])
def test_models_need_not_be_extended(extended):
    """Only the loss function is, since the flow of BackPACK's users begins there."""
    model, inputs = _mlp().double(), torch.rand(6, 4).double()
    twin = dense_twin(model, nn.CrossEntropyLoss(), inputs, _classes())
    F.mse_loss(model(inputs), torch.rand(6, 3).double()).backward()  # gradients from before change nothing
    if extended != "nothing but the loss":
        extend(model if extended == "all" else model[2])
    step = _extended_pass(model, extend(nn.CrossEntropyLoss()), inputs)
    expected = twin.step(range(len(twin.evals)), DAMPING)
    torch.testing.assert_close(parameters_to_vector(step), expected, rtol=1e-8, atol=1e-10)


def test_forward_of_the_next_batch_before_backward():
    """BackPACK's own extensions would use the inputs of the later batch; the graph has those of its own."""
    model, loss_function = _mlp().double(), nn.CrossEntropyLoss()
    inputs, others = torch.rand(2, 6, 4).double()
    twin = dense_twin(model, loss_function, inputs, _classes())
    computation, group = DirectionalDampedNewtonComputation(), _group(model)
    loss = loss_function(model(inputs), _classes())
    loss_function(model(others), _classes())
    computation.backward(loss, [group])
    expected = twin.step(range(len(twin.evals)), DAMPING)
    torch.testing.assert_close(parameters_to_vector(computation.get_result(group)), expected, rtol=1e-8, atol=1e-10)


# Losses that are refused before anything is written


def _output(model):
    return model(torch.rand(6, 4))


def _targets():
    return torch.linspace(0, 1, 18).reshape(6, 3)


LOSSES = {
    "of an unknown kind": (lambda model: F.l1_loss(_output(model), _targets()), "no loss function was recognized"),
    "a mean of outputs": (lambda model: _output(model).mean(), "no loss function was recognized"),
    "a function of a loss": (
        lambda model: F.mse_loss(_output(model), _targets()).sqrt(),
        r"is a function \(SqrtBackward0\) of a loss function",
    ),
    "with a penalty": (
        lambda model: F.mse_loss(_output(model), _targets()) + 0.01 * model[0].weight.square().sum(),
        "has a term, which ends in .*weight_decay",
    ),
    "two losses": (
        lambda model: F.cross_entropy(output := _output(model), _classes()) + F.mse_loss(output, _targets()),
        "has 2 loss functions",
    ),
    "targets of the model": (lambda model: F.mse_loss(output := _output(model), output.square()), "Detach the one"),
    "no scalar": (
        lambda model: F.cross_entropy(_output(model), _classes(), reduction="none"),
        r"the loss has the shape \[6\]\. Reduce it to one number",
    ),
    "no tensor": (lambda model: F.cross_entropy(_output(model), _classes()).item(), "the loss is a float"),
    "no graph": (lambda model: F.cross_entropy(_output(model), _classes()).detach(), "the loss has no graph"),
    "no wanted parameters": (
        lambda model: F.mse_loss(_output(model).detach() * torch.ones(1, requires_grad=True), _targets()),
        "the loss depends on none of the parameters",
    ),
    "an output without an axis": (
        lambda model: F.mse_loss(_output(model)[0, 0], torch.rand(())),
        "a model output without an axis. Keep the axis of the samples",
    ),
    "an empty batch": (
        lambda model: F.cross_entropy(model(torch.rand(0, 4)), _classes()[:0], reduction="sum"),
        r"batch size 0",
    ),
    "a negative factor": (lambda model: -F.cross_entropy(_output(model), _classes()), "the loss was multiplied by"),
    "an infinite factor": (
        lambda model: float("inf") * F.cross_entropy(_output(model), _classes()),
        "the loss was multiplied by inf",
    ),
    "negative class weights": (
        lambda model: F.cross_entropy(_output(model), _classes(), weight=torch.tensor([1.0, -0.1, 1.0])),
        "the loss was multiplied by .* or has weights of that size",
    ),
    "NaN": (lambda model: F.mse_loss(_output(model), _targets() * float("nan")), "the loss is nan"),
    "infinity": (lambda model: F.mse_loss(_output(model), _targets() / 0), "the loss is inf|the loss is nan"),
}


WAYS = [
    (name, way)
    for name in LOSSES
    for way in ("optimizer", "block", "computation")
    if way != "block" or name not in ("no tensor", "no graph")  # which have no backward pass to begin with
]


def _backward(way, loss, model, optimizer):
    if way == "optimizer":
        optimizer.backward(loss)
    elif way == "block":
        loss.backward(torch.ones_like(loss))
    else:
        DirectionalDampedNewtonComputation().backward(loss, [_group(model)])


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_losses_that_are_refused_change_nothing(name, way):
    """No parameter and no gradient, neither those from before nor those that are not there."""
    make, message = LOSSES[name]
    model = _mlp()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = DirectionalDampedNewton(model.named_parameters())
    kind = NonFiniteError if name in ("NaN", "infinity") else CurvatureError
    loss = make(model)
    with pytest.raises(kind, match=message), optimizer.curvature() if way == "block" else nullcontext():
        _backward(way, loss, model, optimizer)
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert [parameter.grad for parameter in list(model.parameters())[1:]] == [None] * 3
    assert all(torch.equal(parameter, old) for parameter, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_penalty_on_parameters_is_noticed(reduction, dtype):
    """In the flow of BackPACK's users, too, where the loss module does not show what else is in the loss."""
    model = extend(_mlp().to(dtype))
    loss_function, inputs = extend(nn.CrossEntropyLoss(reduction=reduction)), torch.rand(6, 4, dtype=dtype)
    penalty = lambda loss: loss + 0.01 * sum(p.square().sum() for p in model.parameters())  # noqa: E731
    with pytest.raises(CurvatureError, match="do not add up to its gradient"):
        _extended_pass(model, loss_function, inputs, loss_map=penalty)
    for _ in range(2):  # without it all is well, with gradients from before too
        _extended_pass(model, loss_function, inputs)


@pytest.mark.parametrize("size", [3, 6])
def test_a_number_of_samples_that_fits_and_one_that_does_not(size):
    model = _mlp()
    optimizer = DirectionalDampedNewton(model.named_parameters())
    optimizer.backward(F.cross_entropy(_output(model), _classes()), samples=size)
    optimizer.zero_grad()
    with pytest.raises(ArgumentError, match=r"samples = 4 does not fit a model output of shape \[6, 3\]"):
        optimizer.backward(F.cross_entropy(_output(model), _classes()), samples=4)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["subsampling_grad", "subsampling_ggn"])
def test_index_beyond_the_batch(name):
    model = _mlp()
    with pytest.raises(ArgumentError, match=f"{name} has index 6, but the batch has 6 samples"):
        _extended_pass(extend(model), extend(nn.CrossEntropyLoss()), **{name: [0, 6]})
    optimizer = DirectionalDampedNewton(model.named_parameters(), curvature={name: [0, 6]})
    with pytest.raises(ArgumentError, match=f"{name} has index 6, but the batch has 6 samples"):
        optimizer.backward(F.cross_entropy(_output(model), _classes()))
    assert all(parameter.grad is None for parameter in model.parameters())


# Errors at the end of a pass, whose gradients are there


def _hook(model):
    model[0].weight.register_hook(lambda gradient: 0.5 * gradient)


def _later_hook(model):
    def halve(parameter):
        parameter.grad.mul_(0.5)

    model[0].weight.register_post_accumulate_grad_hook(halve)


@pytest.mark.parametrize("mc_samples", [0, 1])
@pytest.mark.parametrize("number", range(4))
def test_a_hook_on_any_parameter_is_noticed(number, mc_samples):
    """Columns of the convolution are formed, those of the linear layer are not; weight and bias share them."""
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 49, 3))
    parameters = list(model.parameters())
    parameters[number].register_hook(lambda gradient: 0.5 * gradient)
    loss = F.cross_entropy(model(torch.randn(5, 1, 8, 8)), torch.randint(0, 3, (5,)))
    with pytest.raises(CurvatureError, match=rf"gradients of .*parameter {number}\b.* do not add up"):
        capture_loss(loss, parameters, mc_samples=mc_samples)


@pytest.mark.parametrize("loss", [F.mse_loss, F.binary_cross_entropy_with_logits])
def test_a_hook_is_noticed_with_other_losses(loss):
    model = _mlp()
    _hook(model)
    optimizer = DirectionalDampedNewton(model.named_parameters())
    with pytest.raises(CurvatureError, match=r"gradients of 0\.weight.* do not add up"):
        optimizer.backward(loss(_output(model), _targets()))


@pytest.mark.parametrize("register", [_hook, _later_hook])
@pytest.mark.parametrize("passes", [0, 1, 5])
def test_a_hook_that_changes_the_gradient_of_a_parameter(passes, register):
    """From the first pass on, or after some passes without the hook."""
    model = _mlp()
    optimizer = DirectionalDampedNewton(model.named_parameters())
    for _ in range(passes):
        optimizer.zero_grad()
        optimizer.backward(F.cross_entropy(_output(model), _classes()))
        optimizer.step()
    register(model)
    optimizer.zero_grad()
    before = parameters_to_vector(model.parameters()).detach().clone()
    with pytest.raises(CurvatureError, match=r"gradients of 0\.weight.* do not add up.*A hook on the parameter"):
        optimizer.backward(F.cross_entropy(_output(model), _classes()))
    with pytest.raises(CurvatureError, match="a backward pass has failed"):
        optimizer.step()
    assert torch.equal(parameters_to_vector(model.parameters()), before)


@pytest.mark.parametrize("curvature", [{}, {"kind": "ggn-mc", "mc_samples": 1}], ids=["exact", "Monte Carlo"])
def test_sparse_gradients_of_an_embedding(curvature):
    model = _embedded(sparse=True)
    optimizer = DirectionalDampedNewton(model.named_parameters(), curvature=curvature)
    with pytest.raises(CurvatureError, match="sparse=False"):
        optimizer.backward(F.cross_entropy(model(_tokens()), _classes()))


def test_gradients_near_zero_are_no_false_alarm():
    """At a minimum the gradient is a difference of large numbers: rounding is measured by the samples' gradients."""
    inputs = torch.randn(64, 4)
    model = nn.Sequential(nn.Linear(4, 2))
    targets = torch.randn(64, 2)
    solution = torch.linalg.lstsq(torch.cat([inputs, torch.ones(64, 1)], 1), targets).solution
    model[0].weight.data, model[0].bias.data = solution[:4].T.contiguous(), solution[4].clone()
    optimizer = DirectionalDampedNewton(model.named_parameters())
    optimizer.backward(F.mse_loss(model(inputs), targets))
    assert float(model[0].weight.grad.norm()) < 1e-5


def test_probabilities_that_the_model_fits_are_no_false_alarm():
    """The gradient at the output is nothing but the rounding error of the sigmoid in float32."""
    model, inputs = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)), torch.randn(64, 6)
    targets = torch.sigmoid(model(inputs)).detach()
    optimizer = DirectionalDampedNewton(model.named_parameters(), curvature={"kind": "ggn"})
    optimizer.backward(F.binary_cross_entropy_with_logits(model(inputs), targets))
    assert float(model[0].weight.grad.norm()) < 1e-6


@pytest.mark.parametrize("is_extended", [False, True])
def test_large_gradients_from_before_are_no_false_alarm(is_extended):
    """The gradient of the pass is a difference, whose rounding error is that of the gradient from before."""
    model, inputs = _mlp(), torch.rand(6, 4)
    twin = dense_twin(model, nn.CrossEntropyLoss(), inputs, _classes())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3e4)
    if is_extended:
        step = _extended_pass(extend(model), extend(nn.CrossEntropyLoss()), inputs)
    else:
        computation, group = DirectionalDampedNewtonComputation(), _group(model)
        computation.backward(F.cross_entropy(model(inputs), _classes()), [group])
        step = computation.get_result(group)
    expected = twin.step(range(len(twin.evals)), DAMPING)
    torch.testing.assert_close(parameters_to_vector(step), expected, rtol=1e-3, atol=1e-4)


def test_gradients_from_before_of_parameters_that_the_loss_does_not_reach():
    """They stay as they are, and are no sign of a part of the loss outside of its graph."""
    body, heads = nn.Linear(4, 4), [nn.Linear(4, 3), nn.Linear(4, 3)]
    model, inputs = nn.ModuleList([body, *heads]), torch.rand(6, 4)
    F.cross_entropy(heads[1](body(inputs)), _classes()).backward()
    optimizer = DirectionalDampedNewton(model.named_parameters())
    gradient, before = heads[1].weight.grad.clone(), heads[1].weight.detach().clone()
    optimizer.backward(F.cross_entropy(heads[0](body(inputs)), _classes()))
    optimizer.step()
    assert torch.equal(heads[1].weight.grad, gradient)
    assert torch.equal(heads[1].weight, before)


def test_a_gradient_that_is_clipped_on_its_way_is_refused():
    """Only a linear function of the gradient at the output has columns; no gradient is left behind."""
    model = _mlp()
    model[1].register_forward_hook(
        lambda module, inputs, output: output.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3)) and None
    )
    optimizer = DirectionalDampedNewton(model.named_parameters())
    with pytest.raises(CurvatureError, match=r"not a linear function .* as by clipping\. Remove it"):
        optimizer.backward(F.cross_entropy(_output(model), _classes()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_backward_of_two_losses_at_once():
    model = _mlp()
    optimizer = DirectionalDampedNewton(model.named_parameters())
    losses = [F.cross_entropy(_output(model), _classes()) for _ in range(2)]
    with pytest.raises(CurvatureError, match="backward was called on 2 tensors at once"), optimizer.curvature():
        torch.autograd.backward(losses)
    assert all(parameter.grad is None for parameter in model.parameters())


# The flow of BackPACK's users


def test_unextended_loss():
    model = extend(_mlp())
    with pytest.raises(CurvatureError, match=r"loss_function = backpack.extend\(loss_function\)"):
        _extended_pass(model, nn.CrossEntropyLoss())
    assert all(parameter.grad is not None for parameter in model.parameters())  # whole


def test_nothing_extended():
    with pytest.raises(KeyError, match="no result for this group"):
        _extended_pass(nn.Sequential(nn.Linear(4, 3)), nn.CrossEntropyLoss())


def test_two_losses_in_one_pass():
    model, loss_function, other = extend(_mlp()), extend(nn.CrossEntropyLoss()), extend(nn.MSELoss())
    computation = DirectionalDampedNewtonComputation()
    output = model(torch.rand(6, 4))
    loss = loss_function(output, _classes()) + other(output, torch.rand(6, 3))
    hook = computation.get_extension_hook([_group(model)])
    with (
        pytest.raises(CurvatureError, match="two loss modules"),
        backpack(*computation.get_extensions(), extension_hook=hook),
    ):
        loss.backward()


def test_a_term_beside_the_loss_that_depends_on_the_output():
    """Its gradient would be in the step, its curvature not."""
    model, loss_function = extend(_mlp()), extend(nn.MSELoss())
    computation = DirectionalDampedNewtonComputation()
    output = model(torch.rand(6, 4))
    loss = loss_function(output, torch.rand(6, 3)) + output.square().mean()
    hook = computation.get_extension_hook([_group(model)])
    with (
        pytest.raises(CurvatureError, match="something else depends on the output"),
        backpack(*computation.get_extensions(), extension_hook=hook),
    ):
        loss.backward()


def test_backward_twice_on_one_graph():
    model, loss_function = extend(_mlp()), extend(nn.CrossEntropyLoss())
    computation = DirectionalDampedNewtonComputation()
    loss = loss_function(model(torch.rand(6, 4)), _classes())
    hook = computation.get_extension_hook([_group(model)])
    with backpack(*computation.get_extensions(), extension_hook=hook):
        loss.backward(retain_graph=True)
        with pytest.raises(CurvatureError, match="are gone"):
            loss.backward()


@pytest.mark.parametrize("is_extended", [False, True], ids=["any model", "extended"])
def test_usable_after_an_error(is_extended):
    """A pass that failed, in our code or in somebody's hook, does not spoil the next."""
    model, loss_function = _mlp(), nn.CrossEntropyLoss()
    if is_extended:
        model, loss_function = extend(model), extend(loss_function)
    inputs, group, computation = torch.rand(6, 4), _group(model), DirectionalDampedNewtonComputation()
    hook = computation.get_extension_hook([group])

    def backward(fail=False):
        output = model(inputs)
        if fail:
            output.register_hook(lambda gradient: 1 / 0)
        loss = loss_function(output, _classes())
        if is_extended:
            with backpack(*computation.get_extensions(), extension_hook=hook):
                loss.backward()
        else:
            computation.backward(loss, [group])
        return computation.get_result(group)

    expected = backward()
    with pytest.raises(ZeroDivisionError):
        backward(fail=True)
    for ours, first in zip(backward(), expected, strict=True):
        assert torch.equal(ours, first)
