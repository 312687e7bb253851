"""`optimizer.backward(loss)`, and `loss.backward()` in a block: passes that add up, begin anew or are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.utils import parameters_to_vector
from torch.optim.swa_utils import AveragedModel

from ddn_core import DirectionalDampedNewton
from ddn_core.errors import ArgumentError, CurvatureError
from ddn_core.testing import dense_twin

FLOAT = torch.float64
CRITERIA = {"all": {"kind": "all"}, "top": {"kind": "top-k", "k": 3}}
DAMPING = {"kind": "constant", "value": 0.3}
CURVATURES = {
    "exact": {},
    "some gradients": {"subsampling_grad": [0, 2]},
    "some directions": {"subsampling_ggn": [1, 2]},
}
EXACT = {"rtol": 1e-8, "atol": 1e-11}


class Residual(nn.Module):
    """A model that no list of layers has: a branch, a norm, an own parameter."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.rand(5))

    def forward(self, x):
        return self.head(self.norm(x + torch.tanh(self.body(x))) * self.scale)


@pytest.fixture
def model():
    return Residual().to(FLOAT)


def _data(samples=6):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(samples, 5, dtype=FLOAT, generator=generator)
    return inputs, torch.randint(0, 3, (samples,), generator=generator)


def _optimizer(model, criterion="all", **settings):
    table = {"params": ["*"], "criterion": CRITERIA[criterion], "damping": DAMPING}
    return DirectionalDampedNewton(model.named_parameters(), [table], **settings)


def _flat(model):
    return parameters_to_vector(model.parameters()).detach().clone()


def _moved(model, make_passes, criterion="all", **settings):
    """Return the step of a copy of the model, after `make_passes(model, optimizer)`."""
    own = copy.deepcopy(model)
    optimizer, before = _optimizer(own, criterion, **settings), _flat(own)
    make_passes(own, optimizer)
    optimizer.step()
    return _flat(own) - before


def _whole(own, optimizer):
    inputs, targets = _data()
    optimizer.backward(cross_entropy(own(inputs), targets))


def test_the_step_is_the_damped_newton_step(model):
    inputs, targets = _data()
    twin = dense_twin(model, nn.CrossEntropyLoss(), inputs, targets)
    expected = twin.step(range(len(twin.evals)), 0.3)
    torch.testing.assert_close(_moved(model, _whole), expected, **EXACT)


def test_gradients_are_those_of_backward(model):
    inputs, targets = _data()
    plain = copy.deepcopy(model)
    cross_entropy(plain(inputs), targets).backward()
    _optimizer(model).backward(cross_entropy(model(inputs), targets))
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, expected.grad)


# Several passes before a step


@pytest.mark.parametrize("way", ["backward", "accumulating blocks", "a block and backward"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_several_calls_make_the_step_of_the_concatenated_batch(model, curvature, criterion, reduction, way):
    inputs, targets = _data(9)
    whole = {
        name: [start + index for start in (0, 3, 6) for index in given] for name, given in CURVATURES[curvature].items()
    }

    def at_once(own, optimizer):
        optimizer.backward(cross_entropy(own(inputs), targets, reduction=reduction))

    def in_parts(own, optimizer):
        for number in range(3):
            part = slice(3 * number, 3 * number + 3)
            loss = cross_entropy(own(inputs[part]), targets[part], reduction=reduction)
            loss = loss / 3 if reduction == "mean" else loss
            if way == "backward" or (way == "a block and backward" and number):
                optimizer.backward(loss)
            else:
                with optimizer.curvature(accumulate=True):
                    loss.backward()

    expected = _moved(model, at_once, criterion, curvature=whole)
    found = _moved(model, in_parts, criterion, curvature=CURVATURES[curvature])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


def test_batches_of_other_sizes_add_up(model):
    inputs, targets = _data()

    def in_parts(own, optimizer):
        for part in (slice(0, 1), slice(1, 6)):
            share = len(targets[part]) / 6
            optimizer.backward(share * cross_entropy(own(inputs[part]), targets[part]))

    torch.testing.assert_close(_moved(model, in_parts), _moved(model, _whole), **EXACT)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_pass_after_zero_grad_begins_anew(model, set_to_none):
    inputs, targets = _data()

    def twice(own, optimizer):
        optimizer.backward(cross_entropy(own(inputs + 1), targets))
        optimizer.zero_grad(set_to_none=set_to_none)
        optimizer.backward(cross_entropy(own(inputs), targets))

    torch.testing.assert_close(_moved(model, twice), _moved(model, _whole), rtol=0, atol=0)


def test_the_pass_after_a_step_begins_anew(model):
    """Though the gradients of the step before are still there, as in torch's own loops without zero_grad."""
    inputs, targets = _data()
    optimizer = _optimizer(model)
    _whole(model, optimizer)
    optimizer.step()
    expected = _moved(model, _whole)
    before = _flat(model)
    optimizer.backward(cross_entropy(model(inputs), targets))
    optimizer.step()
    torch.testing.assert_close(_flat(model) - before, expected, **EXACT)


def test_a_block_that_would_replace_a_pass_whose_gradients_are_there_is_refused(model):
    inputs, targets = _data()
    optimizer = _optimizer(model)
    _whole(model, optimizer)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    message = r"its gradients are still there.*Call zero_grad\(\).*or `optimizer.curvature\(accumulate=True\)` to add"
    with pytest.raises(CurvatureError, match=message), optimizer.curvature():
        cross_entropy(model(inputs), targets).backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    optimizer.zero_grad()
    with optimizer.curvature():
        cross_entropy(model(inputs), targets).backward()
    before = _flat(model)
    optimizer.step()
    assert not torch.equal(_flat(model), before)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_directions_and_derivatives_of_two_batches(model, criterion):
    inputs, targets = _data()

    def by_backward(own, optimizer):
        optimizer.backward(cross_entropy(own(inputs[:3]), targets[:3]), purpose="directions")
        optimizer.zero_grad()
        optimizer.backward(cross_entropy(own(inputs[3:]), targets[3:]), purpose="derivatives")

    def by_blocks(own, optimizer):
        for purpose, part in (("directions", slice(3)), ("derivatives", slice(3, 6))):
            optimizer.zero_grad()
            with optimizer.curvature(purpose):
                cross_entropy(own(inputs[part]), targets[part]).backward()

    found, expected = (_moved(model, passes, criterion) for passes in (by_backward, by_blocks))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert float((found - _moved(model, _whole, criterion)).norm()) > 1e-3
    with pytest.raises(ArgumentError, match=r"purpose is 'both'. Use one of 'all', 'directions', 'derivatives'"):
        _optimizer(model).backward(cross_entropy(model(inputs), targets), purpose="both")


@pytest.mark.parametrize("way", ["closure", "block"])
def test_backward_of_the_optimizer_inside_a_block_is_one_pass(model, way):
    """As in a closure that `step(closure)` calls in a block."""
    inputs, targets = _data()
    own = copy.deepcopy(model)
    optimizer, before = _optimizer(own), _flat(own)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(own(inputs), targets)
        optimizer.backward(loss)
        return loss

    if way == "closure":
        optimizer.step(closure)
    else:
        with optimizer.curvature():
            closure()
        optimizer.step()
    torch.testing.assert_close(_flat(own) - before, _moved(model, _whole), **EXACT)


# Arguments of backward


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_backward_with_a_gradient_is_that_of_the_scaled_loss(model, factor):
    inputs, targets = _data()

    def scaled(own, optimizer):
        optimizer.backward(factor * cross_entropy(own(inputs), targets))

    def with_gradient(own, optimizer):
        with optimizer.curvature():
            cross_entropy(own(inputs), targets).backward(gradient=torch.tensor(factor, dtype=FLOAT))

    torch.testing.assert_close(_moved(model, with_gradient), _moved(model, scaled), **EXACT)


def test_inputs_of_backward_are_the_parameters_that_move(model):
    """Others get neither a gradient nor curvature, and stay where they are."""
    inputs, targets = _data()
    own = copy.deepcopy(model)
    optimizer = _optimizer(own)
    with optimizer.curvature():
        cross_entropy(own(inputs), targets).backward(inputs=list(own.head.parameters()))
    assert {name for name, parameter in own.named_parameters() if parameter.grad is not None} == {
        "head.weight",
        "head.bias",
    }
    before = _flat(own.head)
    optimizer.step()
    assert torch.equal(_flat(own.body), _flat(model.body))
    twin = dense_twin(model, nn.CrossEntropyLoss(), inputs, targets, ["head.weight", "head.bias"])
    torch.testing.assert_close(_flat(own.head) - before, twin.step(range(len(twin.evals)), 0.3), **EXACT)


def test_a_graph_that_is_retained(model):
    inputs, targets = _data()

    own = copy.deepcopy(model)
    loss = cross_entropy(own(inputs), targets) / 2
    optimizer, before = _optimizer(own), _flat(own)
    optimizer.backward(loss, retain_graph=True)
    optimizer.backward(loss)
    optimizer.step()
    torch.testing.assert_close(_flat(own) - before, _moved(model, _whole), **EXACT)


def test_the_number_of_samples_of_a_flat_output():
    """The length of the first axis before the output was flattened is found, and may be given."""
    model, tokens = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7)).to(FLOAT), torch.arange(15).reshape(3, 5) % 7
    targets = tokens.flip(1).flatten()

    def flattened(samples):
        return lambda own, optimizer: optimizer.backward(cross_entropy(own(tokens).flatten(0, 1), targets), samples)

    def unflattened(own, optimizer):
        optimizer.backward(cross_entropy(own(tokens).transpose(1, 2), targets.reshape(3, 5)))

    expected = _moved(model, unflattened, "top")
    torch.testing.assert_close(_moved(model, flattened(None), "top"), expected, **EXACT)
    torch.testing.assert_close(_moved(model, flattened(3), "top"), expected, **EXACT)
    torch.testing.assert_close(_moved(model, flattened(15), "all"), _moved(model, unflattened), **EXACT)


# Models


@pytest.mark.parametrize("when", ["before backward", "after backward", "after step"])
@pytest.mark.parametrize("copied", [copy.deepcopy, AveragedModel], ids=["deepcopy", "AveragedModel"])
def test_copies_of_the_model_after_a_forward_pass(model, copied, when):
    inputs, targets = _data()
    expected = _moved(model, _whole)
    optimizer, before = _optimizer(model), _flat(model)
    loss = cross_entropy(model(inputs), targets)
    copies = [copied(model)] if when == "before backward" else []
    optimizer.backward(loss)
    copies += [copied(model)] if when == "after backward" else []
    optimizer.step()
    copies += [copied(model)] if when == "after step" else []
    torch.testing.assert_close(_flat(model) - before, expected, **EXACT)
    other = getattr(copies[0], "module", copies[0])
    start = _flat(other)
    torch.testing.assert_close(start, _flat(model) if when == "after step" else before, rtol=0, atol=0)
    other.zero_grad()
    second = _optimizer(other)
    _whole(other, second)
    second.step()
    assert float((_flat(other) - start).norm()) > 0


def test_a_model_that_returns_a_tuple_and_a_loss_on_one_member(model):
    inputs, targets = _data()

    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.unused = copy.deepcopy(model), nn.Linear(5, 2).to(FLOAT)

        def forward(self, x):
            output = self.inner(x)
            return {"logits": output, "others": (output.argmax(1), self.unused(x))}

    several = Several()
    optimizer, before = _optimizer(several), _flat(several.inner)
    unused = _flat(several.unused)
    optimizer.backward(cross_entropy(several(inputs)["logits"], targets))
    optimizer.step()
    torch.testing.assert_close(_flat(several.inner) - before, _moved(model, _whole), **EXACT)
    assert torch.equal(_flat(several.unused), unused)


def test_two_optimizers_on_two_parts_of_one_model(model):
    """Each takes the parameters of its own, as two groups of one optimizer do."""
    inputs, targets = _data()
    together = copy.deepcopy(model)
    tables = [{"params": names, "criterion": CRITERIA["all"], "damping": DAMPING} for names in (["head.*"], ["*"])]
    optimizer = DirectionalDampedNewton(together.named_parameters(), tables)
    _whole(together, optimizer)
    optimizer.step()

    named = dict(model.named_parameters())
    parts = [
        DirectionalDampedNewton(
            [(name, parameter) for name, parameter in named.items() if name.startswith("head") == is_head],
            [{"params": ["*"], "criterion": CRITERIA["all"], "damping": DAMPING}],
        )
        for is_head in (True, False)
    ]
    loss = cross_entropy(model(inputs), targets)
    parts[0].backward(loss, retain_graph=True)
    parts[1].backward(loss)
    for part in parts:
        part.step()
    torch.testing.assert_close(_flat(model), _flat(together), **EXACT)


def test_an_inner_block_of_another_optimizer_takes_the_pass(model):
    inputs, targets = _data()
    outer, inner = _optimizer(model), _optimizer(model)
    with outer.curvature(), inner.curvature():
        cross_entropy(model(inputs), targets).backward()
    with pytest.raises(CurvatureError, match="needs a curvature pass since the last step"):
        outer.step()
    before = _flat(model)
    inner.step()
    assert not torch.equal(_flat(model), before)


class Strange(nn.Module):
    """A body whose curvature would be expensive or impossible: it sorts, mixes samples and has its own function."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)

    def forward(self, x):
        hidden = self.norm(self.first(x)).sort(0).values
        return hidden.cumsum(0) / (1 + hidden.exp().sum(0))


@pytest.mark.parametrize("is_frozen", [False, True], ids=["body with gradients", "frozen body"])
def test_training_a_head_needs_nothing_of_the_body(is_frozen):
    body, head = Strange().to(FLOAT), nn.Linear(5, 3).to(FLOAT)
    inputs, targets = _data()
    body.requires_grad_(not is_frozen)
    features = body(inputs).detach()
    twin = dense_twin(head, nn.CrossEntropyLoss(), features, targets)
    optimizer, before = _optimizer(head), _flat(head)
    optimizer.backward(cross_entropy(head(body(inputs)), targets))
    assert all((parameter.grad is None) == is_frozen for parameter in body.parameters())
    optimizer.step()
    torch.testing.assert_close(_flat(head) - before, twin.step(range(len(twin.evals)), 0.3), **EXACT)


def test_the_fallback_takes_the_body():
    """Its gradients are those of the same pass."""
    body, head = Strange().to(FLOAT), nn.Linear(5, 3).to(FLOAT)
    model, twin = nn.Sequential(body, head), nn.Sequential(copy.deepcopy(body), copy.deepcopy(head))
    inputs, targets = _data()
    table = {"params": ["1.*"], "criterion": CRITERIA["all"], "damping": DAMPING}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [table], fallback={"kind": "sgd", "lr": 0.1})
    optimizer.backward(cross_entropy(model(inputs), targets))
    optimizer.step()
    cross_entropy(twin(inputs), targets).backward()
    torch.optim.SGD(twin[0].parameters(), lr=0.1).step()
    torch.testing.assert_close(_flat(body), _flat(twin[0]), **EXACT)


def test_parameters_that_one_loss_reaches_and_another_does_not(model):
    """Micro-batches that reach other parameters do not belong together."""
    inputs, targets = _data()
    optimizer = _optimizer(model)
    optimizer.backward(cross_entropy(model(inputs), targets))
    optimizer.backward(mse_loss(model.head(inputs), torch.zeros(6, 3, dtype=FLOAT)))
    with pytest.raises(CurvatureError, match="differ in their parameters that the loss reaches"):
        optimizer.step()
