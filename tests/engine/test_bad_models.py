"""Models and losses that give no curvature: one clear error, gradients untouched or whole, usable afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from backpack import backpack, extend
from backpack.custom_module.branching import SumModule
from torch import nn
from torch.nn.functional import relu
from torch.nn.utils import parametrizations, prune

from ddn_core import DirectionalDampedNewtonComputation
from ddn_core.errors import ArgumentError, CurvatureError


class Functional(nn.Module):
    """Applies an operation that is no module between two layers."""

    def __init__(self, operation):
        super().__init__()
        self.first, self.second, self.operation = nn.Linear(4, 4), nn.Linear(4, 3), operation

    def forward(self, x):
        return self.second(self.operation(self.first(x)))


class OwnParameter(nn.Module):
    """Has a parameter of its own beside its children."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Linear(4, 3), nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.layer(x) * self.scale


def _reused():
    activation = nn.ReLU()
    return nn.Sequential(nn.Linear(4, 4), activation, nn.Linear(4, 4), activation, nn.Linear(4, 3))


def _residual():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x + self.inner(x))

    return nn.Sequential(nn.Linear(4, 4), Residual())


MODELS = {
    "unsupported layer": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(dim=1), nn.Linear(4, 3)),
        r"layer Softmax \(torch.nn.modules.activation\) is not supported. Replace it",
    ),
    "unsupported layer with parameters": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)),
        "layer LayerNorm",
    ),
    "batch norm in training": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)),
        r"BatchNorm1d is in training mode.*eval\(\)",
    ),
    "functional relu": (lambda: Functional(relu), "an operation that is no module"),
    "functional scale": (lambda: Functional(lambda x: 2 * x), "an operation that is no module"),
    "residual": (_residual, "an operation that is no module"),
    "own parameter": (OwnParameter, "layer OwnParameter"),
    "reused module": (_reused, "more than once"),
}


def _pass(model, loss_function, inputs=None, targets=None, groups=None, loss_map=lambda loss: loss, **settings):
    inputs = torch.rand(6, 4) if inputs is None else inputs
    targets = torch.randint(0, 3, (6,)) if targets is None else targets
    computation = DirectionalDampedNewtonComputation(**settings)
    group = {"params": list(model.parameters()), "criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
    loss = loss_map(loss_function(model(inputs), targets))
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook(groups or [group])):
        loss.backward()
    return computation.get_result(group) if groups is None else None


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    make, message = MODELS[name]
    model = make()
    plain, inputs, targets = copy.deepcopy(model), torch.rand(6, 4), torch.randint(0, 3, (6,))
    nn.CrossEntropyLoss()(plain(inputs), targets).backward()
    with pytest.raises(CurvatureError, match=message):
        _pass(extend(model), extend(nn.CrossEntropyLoss()), inputs, targets)
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)  # whole, as after any backward pass


class Transposing(nn.Module):
    """Transposes two axes of equal length by a view: the data pointer tells nothing."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.flat, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Flatten(), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.flat(self.second(self.first(x).transpose(1, 2))))


class LostBranch(nn.Module):
    """Adds up two branches by a module, but one of them ends in an operation that is none."""

    def __init__(self, operation):
        super().__init__()
        self.first, self.branch, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.sum, self.operation = SumModule(), operation

    def forward(self, x):
        y = self.first(x)
        return self.head(self.sum(self.branch(y), self.operation(y)))


def _pruned():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    prune.random_unstructured(model[0], "weight", 0.5)
    return model


def _spectral():
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 3))


def _doubling():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)  # before extend: BackPACK sees its result
    return model


SILENT = {
    "lost branch": (lambda: LostBranch(lambda y: 2 * y), "a branch that parameter . of group 0 .* takes part in"),
    "lost branch, relu": (lambda: LostBranch(relu), "a branch that parameter"),
    "pruned": (_pruned, "parameter 'weight_orig' of layer Linear is not supported"),
    "spectral norm": (_spectral, "parameters\\.weight.original0|weight_orig|is not supported|do not add up"),
    "hook": (_doubling, "do not add up to its gradient|an operation that is no module"),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_would_be_silently_wrong_is_told(name):
    make, message = SILENT[name]
    with pytest.raises(CurvatureError, match=message):
        _pass(extend(make()), extend(nn.CrossEntropyLoss()))


CONVOLUTIONS = {
    "circular": nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
    "replicate": nn.Conv2d(1, 2, 3, padding=1, padding_mode="replicate"),
    "same": nn.Conv2d(1, 2, 2, padding="same"),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_that_pad_otherwise_than_by_given_zeros(name):
    first = CONVOLUTIONS[name]
    model = nn.Sequential(first, nn.Tanh(), nn.Flatten(), nn.Linear(first(torch.rand(1, 1, 4, 4)).numel(), 3))
    with pytest.raises(CurvatureError, match=r"is not supported\. Give the padding as numbers"):
        _pass(extend(model), extend(nn.CrossEntropyLoss()), torch.rand(6, 1, 4, 4))


def test_batch_norm_without_running_statistics():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)).eval()
    with pytest.raises(CurvatureError, match="without running statistics"):
        _pass(extend(model), extend(nn.CrossEntropyLoss()))


@pytest.mark.parametrize("setting", [{"padding_idx": 0}, {"max_norm": 1.0}, {"scale_grad_by_freq": True}])
def test_embedding_settings(setting):
    model = nn.Sequential(nn.Embedding(5, 4, **setting), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(CurvatureError, match=f"Embedding with {next(iter(setting))} set is not supported"):
        _pass(extend(model), extend(nn.CrossEntropyLoss()), torch.randint(0, 5, (6, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_penalty_on_parameters_is_noticed(reduction, dtype):
    model = extend(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype))
    loss_function, inputs = extend(nn.CrossEntropyLoss(reduction=reduction)), torch.rand(6, 4, dtype=dtype)
    penalty = lambda loss: loss + 0.01 * sum(p.square().sum() for p in model.parameters())  # noqa: E731
    with pytest.raises(CurvatureError, match="do not add up to its gradient"):
        _pass(model, loss_function, inputs, loss_map=penalty)
    for _ in range(2):  # without it all is well, with gradients from before too
        _pass(model, loss_function, inputs)


def test_forward_of_the_next_batch_before_backward_is_noticed():
    model, loss_function = (
        extend(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))),
        extend(nn.CrossEntropyLoss()),
    )
    computation = DirectionalDampedNewtonComputation()
    group = {"params": list(model.parameters()), "criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
    loss = loss_function(model(torch.rand(6, 4)), torch.randint(0, 3, (6,)))
    loss_function(model(torch.rand(6, 4)), torch.randint(0, 3, (6,)))
    with (
        pytest.raises(CurvatureError, match="forward was called again before backward"),
        backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])),
    ):
        loss.backward()


def test_gradients_near_zero_are_no_false_alarm():
    """At a minimum the gradient is a difference of large numbers: rounding is measured by the samples' gradients."""
    inputs = torch.randn(64, 4)
    model = nn.Sequential(nn.Linear(4, 2))
    targets = torch.randn(64, 2)
    solution = torch.linalg.lstsq(torch.cat([inputs, torch.ones(64, 1)], 1), targets).solution
    model[0].weight.data, model[0].bias.data = solution[:4].T.contiguous(), solution[4].clone()
    _pass(extend(model), extend(nn.MSELoss()), inputs, targets)
    assert float(model[0].weight.grad.norm()) < 1e-5


def test_a_view_between_layers_is_noticed():
    with pytest.raises(CurvatureError, match="an operation that is no module"):
        _pass(extend(Transposing()), extend(nn.CrossEntropyLoss()), torch.rand(6, 4, 4))


def test_unextended_model():
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(
        CurvatureError, match=r"parameter 0 of group 0 \(shape \[3, 4\]\).*model = backpack.extend\(model\)"
    ):
        _pass(model, extend(nn.CrossEntropyLoss()))


def test_half_extended_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    extend(model[2])
    with pytest.raises(CurvatureError, match="parameter 0 of group 0"):
        _pass(model, extend(nn.CrossEntropyLoss()))


def test_unextended_model_with_gradients_from_before():
    model = nn.Sequential(nn.Linear(4, 3))
    model(torch.rand(2, 4)).sum().backward()
    with pytest.raises(CurvatureError, match="Extend the model"):
        _pass(model, extend(nn.CrossEntropyLoss()))


def test_unextended_loss():
    model = extend(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)))
    with pytest.raises(CurvatureError, match=r"loss_function = backpack.extend\(loss_function\)"):
        _pass(model, nn.CrossEntropyLoss())
    assert all(parameter.grad is not None for parameter in model.parameters())  # whole


def test_nothing_extended():
    with pytest.raises(KeyError, match="extended model"):
        _pass(nn.Sequential(nn.Linear(4, 3)), nn.CrossEntropyLoss())


FLOAT_TARGETS = torch.linspace(0, 1, 18).reshape(6, 3)
LOSSES = {
    "unsupported": (nn.L1Loss(), FLOAT_TARGETS, "L1Loss is not supported. Use one of MSELoss"),
    "no reduction": (nn.MSELoss(reduction="none"), FLOAT_TARGETS, "reduction='none'"),
    "class weights": (nn.CrossEntropyLoss(weight=torch.ones(3)), None, "weight set"),
    "ignored targets": (nn.CrossEntropyLoss(), torch.tensor([0, 1, 2, -100, 0, 1]), "ignore_index=-100"),
    "improper probabilities": (nn.CrossEntropyLoss(), FLOAT_TARGETS, "do not sum to 1"),
    "positive weights": (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), FLOAT_TARGETS, "pos_weight set"),
    "NaN": (nn.MSELoss(), torch.full((6, 3), float("nan")), "the loss is nan"),
    "infinity": (nn.MSELoss(), torch.full((6, 3), float("inf")), "the loss is inf"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    loss_function, targets, message = LOSSES[name]
    model = extend(nn.Sequential(nn.Linear(4, 3)))
    reduce = (lambda loss: loss.sum()) if name == "no reduction" else (lambda loss: loss)
    with pytest.raises(CurvatureError, match=message):
        _pass(model, extend(loss_function), targets=targets, loss_map=reduce)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_broadcast_target():
    with pytest.raises(CurvatureError, match=r"\[6, 3\] and a target of shape \[6, 1\]. Reshape"):
        _pass(extend(nn.Sequential(nn.Linear(4, 3))), extend(nn.MSELoss()), targets=torch.rand(6, 1))


def test_output_without_batch_axis():
    model = extend(nn.Sequential(nn.Linear(4, 3)))
    with pytest.raises(CurvatureError, match="needs a batch axis"):
        _pass(model, extend(nn.CrossEntropyLoss()), torch.rand(4), torch.tensor(1))


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("loss_function", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")])
def test_empty_batch(loss_function):
    model = extend(nn.Sequential(nn.Linear(4, 3)))
    with pytest.raises(CurvatureError, match="batch size 0"):
        _pass(model, extend(loss_function), torch.rand(0, 4), torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("name", ["subsampling_grad", "subsampling_ggn"])
def test_index_beyond_the_batch(name):
    model = extend(nn.Sequential(nn.Linear(4, 3)))
    with pytest.raises(ArgumentError, match=f"{name} has index 6, but the batch has 6 samples"):
        _pass(model, extend(nn.CrossEntropyLoss()), **{name: [0, 6]})
    assert all(parameter.grad is None for parameter in model.parameters())


def test_two_losses_in_one_pass():
    model, loss_function, other = (
        extend(nn.Sequential(nn.Linear(4, 3))),
        extend(nn.CrossEntropyLoss()),
        extend(nn.MSELoss()),
    )
    computation = DirectionalDampedNewtonComputation()
    group = {"params": list(model.parameters()), "criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
    output = model(torch.rand(6, 4))
    loss = loss_function(output, torch.randint(0, 3, (6,))) + other(output, torch.rand(6, 3))
    with (
        pytest.raises(CurvatureError, match="two loss modules"),
        backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])),
    ):
        loss.backward()


@pytest.mark.parametrize("own_class", [False, True])
def test_a_term_beside_the_loss_that_depends_on_the_output(own_class):
    """Its gradient would be in the step, its curvature not."""

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 3))

        def forward(self, x):
            return self.body(x)

    model, loss_function = extend(Wrapped() if own_class else nn.Sequential(nn.Linear(4, 3))), extend(nn.MSELoss())
    computation = DirectionalDampedNewtonComputation()
    group = {"params": list(model.parameters()), "criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
    output = model(torch.rand(6, 4))
    loss = loss_function(output, torch.rand(6, 3)) + output.square().mean()
    with (
        pytest.raises(CurvatureError, match="something else depends on the output, too"),
        backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])),
    ):
        loss.backward()


def test_backward_twice_on_one_graph():
    model, loss_function = extend(nn.Sequential(nn.Linear(4, 3))), extend(nn.CrossEntropyLoss())
    computation = DirectionalDampedNewtonComputation()
    group = {"params": list(model.parameters()), "criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
    loss = loss_function(model(torch.rand(6, 4)), torch.randint(0, 3, (6,)))
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])):
        loss.backward(retain_graph=True)
        with pytest.raises(CurvatureError, match="are gone"):
            loss.backward()


def test_usable_after_an_error():
    """A pass that failed, in our code or in somebody's hook, does not spoil the next."""
    model, loss_function = (
        extend(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))),
        extend(nn.CrossEntropyLoss()),
    )
    inputs, targets = torch.rand(6, 4), torch.randint(0, 3, (6,))
    group = {"params": list(model.parameters()), "criterion": {"kind": "all"}, "damping": {"kind": "constant"}}
    computation = DirectionalDampedNewtonComputation()
    hook = computation.get_extension_hook([group])

    def backward(fail=False):
        output = model(inputs)
        if fail:
            output.register_hook(lambda gradient: 1 / 0)
        with backpack(*computation.get_extensions(), extension_hook=hook):
            loss_function(output, targets).backward()
        return computation.get_result(group)

    expected = backward()
    with pytest.raises(ZeroDivisionError):
        backward(fail=True)
    for ours, first in zip(backward(), expected, strict=True):
        assert torch.equal(ours, first)
