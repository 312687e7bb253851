"""Changes between the backward pass and the step: a step is that of its pass, or one error before anything has moved."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton
from ddn_core.errors import ArgumentError, CurvatureError, NonFiniteError

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


def assert_refuses(optimizer, model, message, step=None):
    """Check that a step is an error, before anything has moved."""
    before, count = [own.detach().clone() for own in model.parameters()], optimizer.step_count
    with pytest.raises(CurvatureError, match=message):
        (step or optimizer.step)()
    assert all(torch.equal(own, old) for own, old in zip(model.parameters(), before, strict=True))
    assert optimizer.step_count == count


def assert_steps_again(optimizer, model, inputs, targets):
    """Check that cleared gradients and another pass make a step that moves all parameters."""
    before = [own.detach().clone() for own in model.parameters()]
    optimizer.zero_grad()
    _pass(optimizer, model, inputs, targets)
    optimizer.step()
    assert not any(torch.equal(own, old) for own, old in zip(model.parameters(), before, strict=True))


def assert_step_ignores(change, model, inputs, targets, **settings):
    """Check that a change between pass and step leaves the step as it is, bit by bit."""
    other = copy.deepcopy(model)
    twin, optimizer = _optimizer(other, **settings), _optimizer(model, **settings)
    _pass(twin, other, inputs.clone(), targets)
    twin.step()
    _pass(optimizer, model, inputs, targets)
    change()
    optimizer.step()
    assert torch.equal(_flat(model), _flat(other))


# Inputs and activations


@pytest.mark.parametrize("make", [_mlp, _cnn, _embedding])
def test_an_input_that_is_overwritten_after_the_pass_is_noticed(make):
    model, inputs, targets, optimizer = _setting(make)
    _pass(optimizer, model, inputs, targets)
    inputs.copy_(inputs.flip(0))
    assert_refuses(
        optimizer, model, r"group 0: the input of an operation with a weight.* was changed in place after the"
    )
    assert_refuses(optimizer, model, r"copy them: `X = X.clone\(\)`", lambda: optimizer.directions().eigenvectors())
    assert_steps_again(optimizer, model, inputs, targets)


def test_a_strategy_that_reads_a_figure_of_an_overwritten_input_is_not_blamed():
    model, inputs, targets, _ = _setting()
    optimizer = DirectionalDampedNewton(model.named_parameters())  # its damping reads gradients of samples
    _pass(optimizer, model, inputs, targets)
    inputs.copy_(inputs.flip(0))
    assert_refuses(
        optimizer, model, "^group 0: the input of an operation with a weight.* was changed in place after the"
    )
    assert_steps_again(optimizer, model, inputs, targets)


def test_an_activation_that_is_changed_after_the_pass_is_noticed():
    model, inputs, targets, optimizer = _setting()
    seen = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    _pass(optimizer, model, inputs, targets)
    seen[0].zero_()
    assert_refuses(optimizer, model, r"a tensor of shape \[12, 6\], was changed in place")


def test_a_loader_that_reuses_its_buffer_for_micro_batches_is_noticed():
    model, inputs, targets, optimizer = _setting()
    buffer = torch.empty(6, 5)
    for part in (slice(0, 6), slice(6, 12)):
        buffer.copy_(inputs[part])
        _pass(optimizer, model, buffer, targets[part], 0.5)
    assert_refuses(optimizer, model, "was changed in place after the backward pass")


def test_directions_that_are_kept_notice_that_the_batch_is_overwritten():
    model, inputs, targets, optimizer = _setting()
    _pass(optimizer, model, inputs, targets)
    directions = optimizer.directions()
    optimizer.step()
    inputs.zero_()
    with pytest.raises(CurvatureError, match="was changed in place after the backward pass"):
        directions.eigenvectors()


def test_what_the_curvature_does_not_depend_on_may_change():
    """Inputs of which the capture has a copy, inputs of a bias alone, and running statistics."""
    model, inputs, targets, _ = _setting()
    sub_sampled = {"curvature": {"subsampling_ggn": [0, 1, 2], "subsampling_grad": [0, 1]}, "damping": 0.3}
    assert_step_ignores(inputs.zero_, model, inputs, targets, **sub_sampled)

    model, inputs, targets, _ = _setting()
    model[0].weight.requires_grad_(False)
    assert_step_ignores(inputs.zero_, model, inputs, targets)

    model, inputs, targets, _ = _setting(
        lambda: (nn.Sequential(_mlp()[0][0], nn.BatchNorm1d(6), nn.Linear(6, 3)), torch.rand(12, 5))
    )
    assert_step_ignores(lambda: model(inputs), model, inputs, targets)


# Parameters and groups


def _in_place(model, optimizer):
    with torch.no_grad():
        model[2].weight.mul_(0.5)


def _replaced(model, optimizer):
    model[2].weight.data = torch.zeros(3, 6)


def _of_another_shape(model, optimizer):
    model[2].weight.data = torch.zeros(4, 6)


def _half(model, optimizer):
    model.half()


def _one_layer_double(model, optimizer):
    model[2].double()


def _added(model, optimizer):
    group = {"criterion": "all", "damping": 0.3}
    optimizer.add_param_group({"params": list(nn.Linear(2, 2).named_parameters()), **group})


def _removed(model, optimizer):
    optimizer.param_groups.pop()


def _left_out(model, optimizer):
    optimizer.param_groups[1]["params"].pop()


def _in_another_group(model, optimizer):
    optimizer.param_groups[0]["params"].append(optimizer.param_groups[1]["params"].pop())


def _exchanged(model, optimizer):
    optimizer.param_groups[1]["params"][1] = nn.Parameter(torch.zeros(3))


def _reused(model, optimizer):
    optimizer.param_groups[0]["every"] = 4


CHANGES = {
    _in_place: "group 1: 2.weight was changed in place after the backward pass",
    _replaced: "group 1: 2.weight was moved, cast or replaced after the backward pass",
    _of_another_shape: r"group 1: 2.weight of shape \[3, 6\] was replaced by a tensor of shape \[4, 6\]",
    _half: "group 0: 0.weight was moved, cast or replaced",
    _one_layer_double: "group 1: 2.weight was moved, cast or replaced",
    _added: "a parameter group was added after the backward pass",
    _removed: "a parameter group was removed after the backward pass",
    _left_out: "group 1 has other parameters than at the backward pass",
    _in_another_group: "group 0 has other parameters than at the backward pass",
    _exchanged: "group 1 has other parameters than at the backward pass",
    _reused: "group 0 had every = 1 at the backward pass, and has every = 4 now",
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_pass_and_step_is_noticed(change, settings):
    model, inputs, targets, optimizer = _setting(**settings)
    _pass(optimizer, model, inputs, targets)
    change(model, optimizer)
    assert_refuses(optimizer, model, rf"{CHANGES[change]}.*No parameter has been touched. Call optimizer.zero_grad\(\)")
    if change is not _of_another_shape and change is not _half and change is not _one_layer_double:
        optimizer.zero_grad()
        _pass(optimizer, model, inputs, targets)
        optimizer.step()
        assert optimizer.step_count == 1


@pytest.mark.parametrize("purposes", [("all", "all"), ("directions", "derivatives")])
def test_what_changes_between_two_passes_is_noticed(purposes):
    model, inputs, targets, optimizer = _setting()
    _pass(optimizer, model, inputs, targets, purpose=purposes[0])
    if purposes[0] == "directions":
        optimizer.zero_grad()
    _in_place(model, optimizer)

    def second():
        _pass(optimizer, model, inputs, targets, purpose=purposes[1])

    assert_refuses(optimizer, model, "2.weight was changed in place after the backward pass", second)
    optimizer.zero_grad()
    for purpose in dict.fromkeys(purposes):  # both passes again, with the parameters as they are
        optimizer.zero_grad()
        _pass(optimizer, model, inputs, targets, purpose=purpose)
    optimizer.step()
    assert optimizer.step_count == 1


def test_a_state_that_is_loaded_between_pass_and_step_drops_the_pass():
    model, inputs, targets, optimizer = _setting(**SETTINGS["two groups"])
    _pass(optimizer, model, inputs, targets)
    optimizer.load_state_dict(optimizer.state_dict())
    assert_refuses(optimizer, model, "needs a curvature pass since the last step")
    assert_steps_again(optimizer, model, inputs, targets)


def test_what_is_as_it_was_makes_the_same_step():
    """Averaged weights that are swapped in and out, a scheduler, a parameter that is frozen: as with torch's own."""
    model, inputs, targets, optimizer = _setting(**SETTINGS["two groups"])
    _pass(optimizer, model, inputs, targets)
    other, twin = copy.deepcopy(model), _optimizer(model, **SETTINGS["two groups"])
    twin = _optimizer(other, **SETTINGS["two groups"])
    _pass(twin, other, inputs, targets)
    kept = [own.data for own in model.parameters()]
    for own in model.parameters():
        own.data = torch.zeros_like(own)
    model(inputs)
    for own, values in zip(model.parameters(), kept, strict=True):
        own.data = values
    model[2].requires_grad_(False)
    model.eval()
    optimizer.step()
    twin.step()
    assert torch.equal(_flat(model), _flat(other))


# Passes that fail


class _FailureError(Exception):
    """An exception in the middle of a backward pass."""


def _raise(gradient):
    raise _FailureError


def _failing(tensor, error=_FailureError):
    """Return the tensor, whose gradient cannot be computed."""

    def fail(gradient):
        raise error

    tensor.register_hook(fail)
    return tensor


@pytest.mark.parametrize(
    "error", [_FailureError, KeyboardInterrupt, torch.OutOfMemoryError], ids=lambda error: error.__name__
)
@pytest.mark.parametrize("place", ["hidden", "loss", "parameter"])
def test_a_micro_batch_that_fails_leaves_no_half_of_a_step(place, error):
    model, inputs, targets, optimizer = _setting()
    first, second, third = slice(0, 5), slice(5, 9), slice(9, 12)
    _pass(optimizer, model, inputs[first], targets[first], 5 / 12)
    output = model(inputs[second])
    handle = (
        model[0].weight.register_hook(lambda gradient: (_ for _ in ()).throw(error())) if place == "parameter" else None
    )
    loss = F.cross_entropy(_failing(output, error) if place == "hidden" else output, targets[second])
    with pytest.raises(CurvatureError if place == "loss" else error):
        optimizer.backward(loss.exp() if place == "loss" else loss)
    if handle is not None:
        handle.remove()
    message = r"a backward pass has failed since the gradients were cleared.* No parameter has been touched"
    assert_refuses(optimizer, model, message)
    assert_refuses(optimizer, model, message, lambda: _pass(optimizer, model, inputs[third], targets[third], 3 / 12))
    assert_refuses(optimizer, model, message)
    assert_steps_again(optimizer, model, inputs, targets)


@pytest.mark.parametrize("to_none", [True, False])
def test_the_batch_is_begun_anew_after_a_pass_that_failed(to_none):
    """The step is that of the second try; clearing to zeros counts as clearing."""
    model, inputs, targets, optimizer = _setting()
    other = copy.deepcopy(model)
    twin = _optimizer(other)
    for part in (slice(0, 6), slice(6, 12)):
        _pass(optimizer, model, inputs[part], targets[part], 0.5)
        _pass(twin, other, inputs[part], targets[part], 0.5)
    with pytest.raises(_FailureError):
        optimizer.backward(_failing(F.cross_entropy(model(inputs), targets)) * 1.0)
    optimizer.zero_grad(set_to_none=to_none)
    for part in (slice(0, 6), slice(6, 12)):
        _pass(optimizer, model, inputs[part], targets[part], 0.5)
    optimizer.step()
    twin.step()
    torch.testing.assert_close(_flat(model), _flat(other), rtol=1e-6, atol=1e-7)


def test_a_first_micro_batch_that_fails_is_no_reason_to_take_the_next_for_the_whole():
    """Also where the failed pass has written no gradient, in a block that says that it is one of several."""
    model, inputs, targets, optimizer = _setting()
    with pytest.raises(CurvatureError, match="is a function"), optimizer.curvature(accumulate=True):
        F.cross_entropy(model(inputs), targets).exp().backward()
    with pytest.raises(CurvatureError, match="a backward pass has failed"), optimizer.curvature(accumulate=True):
        F.cross_entropy(model(inputs), targets).backward()
    assert_refuses(optimizer, model, "a backward pass has failed")
    _pass(optimizer, model, inputs, targets)  # no gradient was written: another try needs no zero_grad()
    optimizer.step()
    assert optimizer.step_count == 1


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_one_micro_batch_that_is_not_finite_skips_the_whole_step(bad):
    model, inputs, targets, optimizer = _setting(damping=0.3, step={"on_nonfinite": "skip"})
    before = _flat(model)
    for index in range(3):
        part = slice(4 * index, 4 * index + 4)
        _pass(optimizer, model, inputs[part] * (torch.nan if index == bad else 1), targets[part], 1 / 3)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert torch.equal(_flat(model), before)
    assert_steps_again(optimizer, model, inputs, targets)


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_block_that_is_left_by_an_exception_keeps_the_passes_that_were_whole(place):
    """An exception outside of the backward pass writes no gradient: the step is that of the gradients that are there."""
    model, inputs, targets, optimizer = _setting()
    other = copy.deepcopy(model)
    twin = _optimizer(other)
    _pass(optimizer, model, inputs, targets)
    _pass(twin, other, inputs, targets)
    loss = F.cross_entropy(model(inputs), targets)
    with contextlib.suppress(_FailureError), optimizer.curvature(accumulate=True):
        if place == "after":
            loss.backward()
        raise _FailureError
    if place == "after":
        _pass(twin, other, inputs, targets)
    optimizer.step()
    twin.step()
    assert torch.equal(_flat(model), _flat(other))


def test_a_block_without_a_pass_is_no_pass():
    model, inputs, targets, optimizer = _setting()
    for _ in range(2):
        with optimizer.curvature():
            break
    with optimizer.curvature():
        loss = F.cross_entropy(model(inputs), targets)
    loss.backward()
    assert_refuses(optimizer, model, "needs a curvature pass since the last step")


def test_a_pass_whose_loss_is_not_finite_is_a_pass_that_failed():
    model, inputs, targets, optimizer = _setting()
    _pass(optimizer, model, inputs, targets)
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        _pass(optimizer, model, inputs * torch.nan, targets)
    assert_refuses(optimizer, model, "a backward pass has failed")
    assert_steps_again(optimizer, model, inputs, targets)


@pytest.mark.parametrize("is_captured", [False, True])
def test_gradients_that_are_cleared_to_zeros_are_no_part_of_the_next_pass(is_captured):
    """Neither those of a first pass that failed, nor those of a pass without curvature."""
    model, inputs, targets, optimizer = _setting()
    loss = F.cross_entropy(model(inputs), targets)
    if is_captured:
        handle = model[0].weight.register_hook(_raise)
        with pytest.raises(_FailureError):
            optimizer.backward(loss)
        handle.remove()
    else:
        loss.backward()
    assert model[2].bias.grad is not None
    optimizer.zero_grad(set_to_none=False)
    _pass(optimizer, model, inputs, targets)
    optimizer.step()
    assert optimizer.step_count == 1


# Blocks and closures


def test_the_innermost_block_has_the_pass():
    model, inputs, targets, optimizer = _setting()
    other = copy.deepcopy(model)
    twin = _optimizer(other)
    with optimizer.curvature(), optimizer.curvature(accumulate=True):
        F.cross_entropy(model(inputs), targets).backward()
    with optimizer.curvature():
        optimizer.zero_grad()
        _pass(optimizer, model, inputs, targets)
    _pass(twin, other, inputs, targets)
    optimizer.step()
    twin.step()
    assert torch.equal(_flat(model), _flat(other))


def test_blocks_of_two_optimizers_are_apart():
    """The pass belongs to the innermost; the other optimizer has none."""
    model, inputs, targets, _ = _setting()
    outer = DirectionalDampedNewton(model[0].named_parameters(), damping=0.3)
    inner = DirectionalDampedNewton(model[2].named_parameters(), damping=0.3)
    with outer.curvature(), inner.curvature():
        F.cross_entropy(model(inputs), targets).backward()
    assert_refuses(outer, model, "needs a curvature pass since the last step")
    inner.step()
    assert inner.step_count == 1


def test_the_blocks_of_generators_may_end_in_any_order():
    model, inputs, targets, optimizer = _setting()
    own = torch.autograd.backward

    def block():
        with optimizer.curvature():
            yield

    first, second = block(), block()
    next(first), next(second)
    first.close()
    F.cross_entropy(model(inputs), targets).backward()
    second.close()
    assert torch.autograd.backward is own
    optimizer.step()
    assert optimizer.step_count == 1


STEPS = {
    "keep": {"damping": {"kind": "levenberg-marquardt"}},
    "default": {"lr": 1.0},
    "damp": {"damping": 0.3, "step": {"on_increase": "damp"}},
    "search": {"damping": 0.3, "step": {"on_increase": "search"}},
}


@pytest.mark.parametrize("settings", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("way", ["block", "backward", "micro-batches"])
def test_a_closure_may_open_blocks_of_its_own(way, settings):
    model, inputs, targets, optimizer = _setting(**settings)
    other = copy.deepcopy(model)
    twin = _optimizer(other, **settings)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        if way == "backward":
            optimizer.backward(loss)
        else:
            for share in [1.0] if way == "block" else [0.25, 0.75]:
                with optimizer.curvature(accumulate=way != "block"):
                    (share * loss).backward(retain_graph=True)
        return loss

    def plain():
        twin.zero_grad()
        loss = F.cross_entropy(other(inputs), targets)
        loss.backward()
        return loss

    outer = _optimizer(_mlp()[0])
    for _ in range(2):
        with outer.curvature():  # the closure's passes are not those of a block around the step
            optimizer.step(closure)
        twin.step(plain)
    if way != "micro-batches":  # which are twice the batch here
        torch.testing.assert_close(_flat(model), _flat(other), rtol=1e-4, atol=1e-6)
    assert optimizer.step_count == 2
    assert_refuses(outer, model, "needs a curvature pass since the last step")


@pytest.mark.parametrize("settings", STEPS.values(), ids=STEPS)
def test_passes_of_the_closure_after_the_step_belong_to_no_block(settings):
    """They give the loss alone, also in a block around the step that has had its pass."""
    model, inputs, targets, optimizer = _setting(**settings)
    outer = _optimizer(copy.deepcopy(model))

    def closure():
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    with outer.curvature():
        _pass(optimizer, model, inputs, targets)
        optimizer.step(closure)
    assert optimizer.step_count == 1
    assert_refuses(outer, model, "needs a curvature pass since the last step")


def test_a_block_of_the_closure_after_the_step_may_have_several_passes():
    model, inputs, targets, optimizer = _setting(**STEPS["keep"])

    def closure():
        losses = [0.5 * F.cross_entropy(model(inputs), targets) for _ in range(2)]
        with optimizer.curvature():
            for loss in losses:
                loss.backward()
        return sum(losses)

    _pass(optimizer, model, inputs, targets)
    optimizer.step(closure)
    assert optimizer.step_count == 1


@pytest.mark.parametrize("is_captured", [False, True])
def test_a_closure_that_makes_a_step_itself_is_refused(is_captured):
    model, inputs, targets, optimizer = _setting(damping=0.3, step={"on_increase": "undo"})
    before = _flat(model)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.backward(loss)
        optimizer.step()
        return loss

    if is_captured:
        _pass(optimizer, model, inputs, targets)
    with pytest.raises(ArgumentError, match=r"the closure of step\(\) called step\(\) itself"):
        optimizer.step(closure)
    assert torch.equal(_flat(model), before)
    optimizer.zero_grad()
    _pass(optimizer, model, inputs, targets)
    optimizer.step(lambda: F.cross_entropy(model(inputs), targets))
    assert not torch.equal(_flat(model), before)


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
