"""Conventions of torch's optimizers, which ours keeps: the same test for each of them, side by side."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.optim import lr_scheduler

from ddn_core import DirectionalDampedNewton

GROUP = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 0.5}}
RICH = {**GROUP, "momentum": 0.5, "memory": 0.3, "weight_decay": 0.01, "every": 2}
HEAD = [{**RICH, "params": ["0.*"]}]
SETTINGS = {
    "plain": lambda model: DirectionalDampedNewton(model.named_parameters(), [GROUP], lr=0.1),
    "rich": lambda model: DirectionalDampedNewton(model.named_parameters(), [RICH], lr=0.1),
    "fallback": lambda model: DirectionalDampedNewton(
        model.named_parameters(), HEAD, lr=0.1, fallback={"kind": "adamw", "lr": 0.1}
    ),
    "torch's sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5),
    "torch's adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.1),
}
EVERY = pytest.mark.parametrize("make", SETTINGS.values(), ids=SETTINGS)
LOSS = nn.CrossEntropyLoss()


def model_of(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def data(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(8, 5, generator=generator, dtype=dtype), torch.randint(0, 3, (8,), generator=generator)


def closure_of(model, optimizer):
    X, y = data(next(model.parameters()).dtype)

    def closure():
        optimizer.zero_grad()
        loss = LOSS(model(X), y)
        loss.backward()
        return loss

    return closure


def flat(model):
    return parameters_to_vector(model.parameters()).detach().clone()


def steps(model, optimizer, count=3):
    for _ in range(count):
        optimizer.step(closure_of(model, optimizer))


@EVERY
def test_steps_with_a_closure_lower_the_loss(make):
    model = model_of()
    optimizer = make(model)
    closure = closure_of(model, optimizer)
    first = float(closure().detach())
    steps(model, optimizer, 10)
    assert float(closure().detach()) < first


@EVERY
def test_a_state_goes_on_bit_by_bit_through_a_file(make, tmp_path):
    """Saved after each number of steps: with directions that are reused, in the middle of their service too."""
    whole = model_of()
    optimizer = make(whole)
    steps(whole, optimizer, 5)
    for saved_after in range(1, 5):
        part = model_of()
        first = make(part)
        steps(part, first, saved_after)
        torch.save({"model": part.state_dict(), "optimizer": first.state_dict()}, tmp_path / "state.pt")
        other = model_of()
        second = make(other)
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        other.load_state_dict(state["model"])
        second.load_state_dict(state["optimizer"])
        steps(other, second, 5 - saved_after)
        assert torch.equal(flat(other), flat(whole)), saved_after


@EVERY
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_go_on_as_the_original_does(make, way):
    model = model_of()
    optimizer = make(model)
    steps(model, optimizer)
    pair = (model, optimizer)
    other, second = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
    steps(model, optimizer)
    steps(other, second)
    assert torch.equal(flat(other), flat(model))


@pytest.mark.parametrize("make", [SETTINGS["plain"], SETTINGS["rich"]])
def test_loading_leaves_the_saved_state_alone(make):
    """More than torch's own do: theirs go on with the very tensors that they are given."""
    model = model_of()
    optimizer = make(model)
    steps(model, optimizer)
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    other = model_of()
    second = make(other)
    second.load_state_dict(state)
    steps(other, second)
    assert _same(before, copy.deepcopy(state))


def _same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


@EVERY
def test_states_are_by_parameter_and_groups_by_number(make):
    model = model_of()
    optimizer = make(model)
    steps(model, optimizer)
    state = optimizer.state_dict()
    assert {"state", "param_groups"} <= set(state)
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    assert numbers == list(range(4))
    assert set(state["state"]) <= set(numbers)
    for entries in state["state"].values():
        for entry in entries.values():
            assert isinstance(entry, torch.Tensor | int | float | type(None))


@EVERY
def test_a_loaded_state_takes_the_dtype_of_the_parameters(make):
    model = model_of(torch.float64)
    optimizer = make(model)
    steps(model, optimizer)
    other = model_of(torch.float32)
    second = make(other)
    second.load_state_dict(optimizer.state_dict())
    for parameter, entries in second.state.items():
        for name, entry in entries.items():
            if isinstance(entry, torch.Tensor) and name != "step":
                assert entry.dtype == parameter.dtype


@EVERY
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(make, set_to_none):
    model = model_of()
    optimizer = make(model)
    closure_of(model, optimizer)()
    optimizer.zero_grad(set_to_none=set_to_none)
    for parameter in model.parameters():
        assert parameter.grad is None if set_to_none else not parameter.grad.any()
    before = flat(model)
    optimizer.step(closure_of(model, optimizer))
    assert not torch.equal(flat(model), before)


@EVERY
def test_step_hooks_are_called(make):
    model = model_of()
    optimizer = make(model)
    calls = []
    handle = optimizer.register_step_pre_hook(lambda own, *_: calls.append(("before", own is optimizer)))
    optimizer.register_step_post_hook(lambda own, *_: calls.append(("after", own is optimizer)))
    steps(model, optimizer, 1)
    assert calls == [("before", True), ("after", True)]
    handle.remove()
    steps(model, optimizer, 1)
    assert calls[2:] == [("after", True)]


@EVERY
def test_state_dict_hooks_are_called(make):
    model = model_of()
    optimizer = make(model)
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "extra": 1})
    assert optimizer.state_dict()["extra"] == 1
    seen = []
    optimizer.register_load_state_dict_pre_hook(lambda _, state: seen.append(sorted(state)))
    optimizer.load_state_dict({key: value for key, value in optimizer.state_dict().items() if key != "extra"})
    assert "extra" not in seen[0]


SCHEDULERS = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 2),
    "multi-step": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1, 3]),
    "lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step)),
    "exponential": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.5),
    "linear": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 3),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 5),
    "restarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3),
    "cyclic": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.1, 0.2, 2, cycle_momentum=False),
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=8),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.ConstantLR(optimizer, 0.1), lr_scheduler.ExponentialLR(optimizer, 0.9)], [2]
    ),
}


@EVERY
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:The epoch parameter")  # SequentialLR up to torch 2.8 uses what torch deprecates
def test_schedulers(make, name):
    model = model_of()
    optimizer = make(model)
    scheduler = SCHEDULERS[name](optimizer)
    seen = []
    for _ in range(4):
        steps(model, optimizer, 1)
        scheduler.step()
        seen.append([group["lr"] for group in optimizer.param_groups])
    assert len({tuple(rates) for rates in seen}) > 1
    again = SCHEDULERS[name](make(model_of()))
    again.load_state_dict(scheduler.state_dict())
    assert again.get_last_lr() == scheduler.get_last_lr()


@EVERY
def test_a_plateau_scheduler(make):
    model = model_of()
    optimizer = make(model)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for loss in (1.0, 2.0, 2.0):
        scheduler.step(loss)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


@EVERY
def test_the_learning_rate_may_be_a_tensor_in_a_group(make):
    model, other = model_of(), model_of()
    first, second = make(model), make(other)
    for group in second.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    steps(model, first, 2)
    steps(other, second, 2)
    torch.testing.assert_close(flat(other), flat(model))


@EVERY
def test_bfloat16_autocast(make):
    model = model_of()
    optimizer = make(model)
    X, y = data()

    def closure():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = LOSS(model(X), y)
        loss.backward()
        return loss

    first = float(closure().detach())
    for _ in range(10):
        optimizer.step(closure)
    assert float(closure().detach()) < first
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@EVERY
def test_accumulated_gradients(make):
    """Two halves of a batch, each loss with its share, make the step of the whole."""
    X, y = data(torch.float64)
    ends = []
    for halves in (False, True):
        model = model_of(torch.float64)
        optimizer = make(model)
        ours = isinstance(optimizer, DirectionalDampedNewton)
        for _ in range(3):
            optimizer.zero_grad()
            for part in (slice(0, 4), slice(4, 8)) if halves else (slice(0, 8),):
                share = 0.5 if halves else 1.0
                if ours:
                    with optimizer.curvature(accumulate=True):
                        (share * LOSS(model(X[part]), y[part])).backward()
                else:
                    (share * LOSS(model(X[part]), y[part])).backward()
            optimizer.step()
        ends.append(flat(model))
    torch.testing.assert_close(*ends, rtol=1e-7, atol=1e-9)


@EVERY
def test_add_param_group(make):
    model = model_of()
    optimizer = make(model)
    extra = nn.Linear(3, 3)
    before = flat(extra)
    count = len(optimizer.param_groups)
    ours = isinstance(optimizer, DirectionalDampedNewton)
    own = {key: GROUP[key] for key in ("criterion", "damping")} if ours else {}
    params = [(f"2.{name}", parameter) for name, parameter in extra.named_parameters()]
    optimizer.add_param_group({"params": params if ours else list(extra.parameters()), "lr": 0.3, **own})
    assert len(optimizer.param_groups) == count + 1
    assert optimizer.param_groups[-1]["lr"] == 0.3
    whole = nn.Sequential(*model, extra)
    steps(whole, optimizer)
    assert not torch.equal(flat(extra), before)


@EVERY
def test_representation_and_groups_are_readable(make):
    optimizer = make(model_of())
    assert "Parameter Group 0" in repr(optimizer)
    assert "lr: 0.1" in repr(optimizer)
    assert all("params" in group and "lr" in group for group in optimizer.param_groups)
