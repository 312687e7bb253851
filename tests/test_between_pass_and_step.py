"""Changes between the backward pass and the step: a step is that of its pass, or one error before anything has moved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton
from ddn_core.errors import ArgumentError, CurvatureError

TWO_GROUPS = [{"params": ["0.*"], "damping": 0.3}, {"params": ["2.*"], "damping": 0.3}]
SETTINGS = {
    "two groups": {"groups": [{"criterion": "all", **group} for group in TWO_GROUPS]},
    "fallback": {"groups": [{"criterion": "all", **TWO_GROUPS[0]}], "fallback": {"kind": "adamw", "lr": 0.1}},
}


def _mlp():
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), torch.rand(12, 5)


def _cnn():
    return nn.Sequential(nn.Conv1d(4, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)), torch.rand(12, 4, 6)


def _embedding():
    return nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(8, 3)), torch.randint(0, 7, (12, 2))


def _setting(make=_mlp, **settings):
    """Return model, inputs, targets and optimizer."""
    torch.manual_seed(0)
    model, inputs = make()
    return model, inputs, torch.randint(0, 3, (12,)), _optimizer(model, **settings)


def _optimizer(model, **settings):
    return DirectionalDampedNewton(model.named_parameters(), **(settings or {"damping": 0.3}))


def _pass(optimizer, model, inputs, targets, share=1.0, **options):
    optimizer.backward(share * F.cross_entropy(model(inputs), targets), **options)


def _flat(model):
    return parameters_to_vector(model.parameters()).detach().clone()


def _refuses(optimizer, model, message, step=None):
    """Check that a step is an error, before anything has moved."""
    before, count = [own.detach().clone() for own in model.parameters()], optimizer.step_count
    with pytest.raises(CurvatureError, match=message):
        (step or optimizer.step)()
    assert all(torch.equal(own, old) for own, old in zip(model.parameters(), before, strict=True))
    assert optimizer.step_count == count


def _steps_again(optimizer, model, inputs, targets):
    """Check that cleared gradients and another pass make a step that moves all parameters."""
    before = [own.detach().clone() for own in model.parameters()]
    optimizer.zero_grad()
    _pass(optimizer, model, inputs, targets)
    optimizer.step()
    assert not any(torch.equal(own, old) for own, old in zip(model.parameters(), before, strict=True))


# Inputs and activations


@pytest.mark.parametrize("make", [_mlp, _cnn, _embedding])
def test_an_input_that_is_overwritten_after_the_pass_is_noticed(make):
    model, inputs, targets, optimizer = _setting(make)
    _pass(optimizer, model, inputs, targets)
    inputs.copy_(inputs.flip(0))
    _refuses(optimizer, model, r"group 0: the input of an operation with a weight.* was changed in place after the")
    _refuses(optimizer, model, r"copy them: `X = X.clone\(\)`", lambda: optimizer.directions().eigenvectors())
    _steps_again(optimizer, model, inputs, targets)


def test_an_activation_that_is_changed_after_the_pass_is_noticed():
    model, inputs, targets, optimizer = _setting()
    seen = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    _pass(optimizer, model, inputs, targets)
    seen[0].zero_()
    _refuses(optimizer, model, r"a tensor of shape \[12, 6\], was changed in place")


def test_a_loader_that_reuses_its_buffer_for_micro_batches_is_noticed():
    model, inputs, targets, optimizer = _setting()
    buffer = torch.empty(6, 5)
    for part in (slice(0, 6), slice(6, 12)):
        buffer.copy_(inputs[part])
        _pass(optimizer, model, buffer, targets[part], 0.5)
    _refuses(optimizer, model, "was changed in place after the backward pass")


def test_directions_that_are_kept_notice_that_the_batch_is_overwritten():
    model, inputs, targets, optimizer = _setting()
    _pass(optimizer, model, inputs, targets)
    directions = optimizer.directions()
    optimizer.step()
    inputs.zero_()
    with pytest.raises(CurvatureError, match="was changed in place after the backward pass"):
        directions.eigenvectors()


def test_what_the_curvature_does_not_depend_on_may_change():
    """Inputs of which it has a copy, those of a bias alone, those of a step that is made, and buffers."""
    sub_sampled = {"curvature": {"subsampling_ggn": [0, 1, 2], "subsampling_grad": [0, 1]}, "damping": 0.3}
    model, inputs, targets, optimizer = _setting(**sub_sampled)
    _pass(optimizer, model, inputs, targets)
    inputs.zero_()
    optimizer.step()
    model, inputs, targets, optimizer = _setting()
    model[0].weight.requires_grad_(False)
    _pass(optimizer, model, inputs, targets)
    inputs.zero_()
    optimizer.step()
    inputs.add_(1)
    normalized = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    optimizer = _optimizer(normalized)
    _pass(optimizer, normalized, inputs + targets[:, None], targets)
    normalized(inputs)  # the running statistics change
    optimizer.step()


# States


def _trained(make, hidden, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 3))
    optimizer = make(model, **settings)
    inputs, targets = torch.rand(12, 5), torch.randint(0, 3, (12,))
    for _ in range(2):
        optimizer.zero_grad()
        _pass(optimizer, model, inputs, targets)
        optimizer.step()
    return optimizer


PLAIN = {"params": ["*"], "criterion": "all", "damping": 0.3}
STATES = {
    "displacement of 0.weight": {"lr": 1.0},
    "momentum_buffer of 0.weight": {"groups": [{**PLAIN, "momentum": 0.5}]},
    "previous_step of 0.weight": {"groups": [{**PLAIN, "memory": 0.5}]},
    "directions of parameters": {"groups": [{**PLAIN, "every": 4}]},
    "parameters before the last step": {"damping": 0.3, "step": {"on_nonfinite": "back"}},
    "exp_avg of 0.weight": {
        "groups": [{**PLAIN, "params": ["2.bias"]}],
        "fallback": {"kind": "adamw", "lr": 0.1},
    },
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_of_parameters_of_other_shapes_is_refused_when_it_is_loaded(name):
    """All tensors that a state has of parameters; nothing is changed, and the state of the right shapes is loaded."""
    state = _trained(_optimizer, 6, **STATES[name]).state_dict()
    optimizer = _trained(_optimizer, 7, **STATES[name])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ArgumentError, match=rf"{name}.*Load the state into the optimizer that saved it"):
        optimizer.load_state_dict(state)
    assert repr(optimizer.state_dict()) == repr(before)
    _trained(_optimizer, 6, **STATES[name]).load_state_dict(state)


def test_a_state_with_values_in_place_of_tensors_is_refused():
    optimizer = _trained(_optimizer, 6, lr=1.0)
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["displacement"] = [0.0]
    with pytest.raises(ArgumentError, match=r"displacement of 0.weight: the state has tensors of shapes \['list'\]"):
        optimizer.load_state_dict(state)
    state = copy.deepcopy(optimizer.state_dict())
    state["ddn"]["outcomes"] = {3: {}}
    with pytest.raises(ArgumentError, match=r"the state has a group 3, but the optimizer has groups 0 to 0"):
        optimizer.load_state_dict(state)
    del state["state"]
    with pytest.raises(ArgumentError, match="'state' is missing"):
        optimizer.load_state_dict(state)


def test_directions_of_different_numbers_are_refused():
    optimizer = _trained(_optimizer, 6, **STATES["directions of parameters"])
    state = copy.deepcopy(optimizer.state_dict())
    state["ddn"]["held"][0]["deltas"] = state["ddn"]["held"][0]["deltas"][1:]
    with pytest.raises(ArgumentError, match=r"dampings of \[\d+, \d+\] directions, but their numbers must be equal"):
        optimizer.load_state_dict(state)
