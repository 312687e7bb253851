"""`loss.backward()` inside a block is handed to the block, for the thread that opened it alone."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton
from ddn_core.engine import backward_as_usual, backward_handed_to


def _loss():
    leaf = torch.ones(3, requires_grad=True)
    return leaf, leaf.square().sum()


def _recorder(calls, name):
    return lambda *arguments, **options: calls.append((name, arguments[0] if arguments else options["tensors"]))


def test_backward_is_handed_over_with_its_arguments():
    leaf, loss = _loss()
    gradient, seen = torch.ones(()), []
    with backward_handed_to(lambda *arguments, **options: seen.append((arguments, options))):
        loss.backward(gradient, retain_graph=True, inputs=[leaf])
        torch.autograd.backward([loss], create_graph=False)
    plain, other = seen
    assert plain == ((loss, gradient, True, False), {"inputs": [leaf]})
    assert other == (([loss],), {"create_graph": False})
    assert leaf.grad is None
    loss.backward()
    assert leaf.grad.tolist() == [2, 2, 2]


def test_passes_that_the_function_begins_are_torch_s_own():
    leaf, loss = _loss()

    def run(tensors, *arguments, **options):
        torch.autograd.backward(tensors, retain_graph=True)
        torch.autograd.backward(tensors)

    with backward_handed_to(run):
        loss.backward()
    assert leaf.grad.tolist() == [4, 4, 4]


def test_the_innermost_block_gets_the_pass():
    calls = []
    loss = [_loss()[1] for _ in range(4)]
    with backward_handed_to(_recorder(calls, "outer")):
        loss[0].backward()
        with backward_handed_to(_recorder(calls, "inner")):
            loss[1].backward()
            with backward_handed_to(_recorder(calls, "innermost")):
                pass
            loss[2].backward()
        loss[3].backward()
    assert calls == [("outer", loss[0]), ("inner", loss[1]), ("inner", loss[2]), ("outer", loss[3])]


def test_a_block_for_each_pass_of_a_function():
    """A function that begins a pass inside a block of its own hands it to that block."""
    calls = []

    def run(tensors, *arguments, **options):
        with backward_handed_to(_recorder(calls, "own")):
            tensors.backward()

    _, loss = _loss()
    with backward_handed_to(run):
        loss.backward()
        loss.backward()
    assert calls == [("own", loss)] * 2


def test_a_block_that_is_left_open_inside_a_pass_ends_later():
    """As that of a generator which nobody has closed; it has no pass any more."""
    own, calls, opened = torch.autograd.backward, [], []

    def block():
        with backward_handed_to(_recorder(calls, "left open")):
            yield

    with backward_as_usual():
        opened.append(block())
        next(opened[0])
    leaf, loss = _loss()
    loss.backward()
    assert leaf.grad.tolist() == [2, 2, 2]
    assert calls == []
    opened[0].close()
    assert torch.autograd.backward is own


@pytest.mark.parametrize("place", ["block", "function", "nested function"])
def test_torch_s_own_function_is_back_after_an_exception(place):
    own = torch.autograd.backward
    _, loss = _loss()

    def fail(*arguments, **options):
        raise ZeroDivisionError

    def enter():
        with backward_handed_to(_recorder([], "outer")), backward_handed_to(fail):
            if place == "block":
                raise ZeroDivisionError
            if place == "nested function":
                with backward_handed_to(fail):
                    loss.backward()
            loss.backward()

    with pytest.raises(ZeroDivisionError):
        enter()
    assert torch.autograd.backward is own
    calls = []
    with backward_handed_to(_recorder(calls, "next")):
        loss.backward()
    assert calls == [("next", loss)]
    assert torch.autograd.backward is own


def test_a_function_that_failed_gets_the_next_pass():
    _, loss = _loss()
    calls = []

    def fail_once(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError

    with backward_handed_to(fail_once):
        with pytest.raises(ZeroDivisionError):
            loss.backward()
        loss.backward()
    assert calls == [1, 1]


def test_who_replaced_torch_s_function_inside_the_block_keeps_it(monkeypatch):
    """Another library may do the same, and end later."""
    own, calls = torch.autograd.backward, []
    other = _recorder(calls, "other")
    with backward_handed_to(_recorder(calls, "block")):
        monkeypatch.setattr(torch.autograd, "backward", other)
    assert torch.autograd.backward is other
    monkeypatch.undo()
    torch.autograd.backward = own


# Threads


def _in_threads(*functions):
    """Call functions at the same time, and raise what one of them raises."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def test_other_threads_go_on_as_before():
    inside, done, calls = threading.Event(), threading.Event(), []

    def with_a_block():
        with backward_handed_to(_recorder(calls, "block")):
            inside.set()
            assert done.wait(60)
            _loss()[1].backward()

    def without():
        assert inside.wait(60)
        leaf, loss = _loss()
        loss.backward()
        done.set()
        assert leaf.grad.tolist() == [2, 2, 2]

    own = torch.autograd.backward
    _in_threads(with_a_block, without)
    assert [name for name, _ in calls] == ["block"]
    assert torch.autograd.backward is own


def test_blocks_of_two_threads_that_overlap():
    """The thread that opened its block first closes it first; torch's function is back with the last."""
    first, second, calls = threading.Event(), threading.Event(), []

    def one():
        with backward_handed_to(_recorder(calls, "one")):
            first.set()
            assert second.wait(60)
            _loss()[1].backward()

    def other():
        assert first.wait(60)
        with backward_handed_to(_recorder(calls, "other")):
            second.set()
            earlier.join(60)
            _loss()[1].backward()

    own = torch.autograd.backward
    earlier, later = threading.Thread(target=one), threading.Thread(target=other)
    earlier.start(), later.start()
    earlier.join(60), later.join(60)
    assert [name for name, _ in calls] == ["one", "other"]
    assert torch.autograd.backward is own


def _train(model, way, steps=8):
    """Train a model, and return its parameters."""
    generator = torch.Generator().manual_seed(1)
    optimizer = DirectionalDampedNewton(
        model.named_parameters(), damping=1.0, lr=0.5, curvature={"kind": "ggn-mc", "mc_samples": 2, "seed": 0}
    )
    for _ in range(steps):
        inputs, targets = torch.randn(8, 4, generator=generator), torch.randint(0, 3, (8,), generator=generator)
        optimizer.zero_grad()
        if way == "block":
            with optimizer.curvature():
                nn.functional.cross_entropy(model(inputs), targets).backward()
        else:
            optimizer.backward(nn.functional.cross_entropy(model(inputs), targets))
        optimizer.step()
    return parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("ways", [("block", "block"), ("block", "backward"), ("backward", "backward")], ids="-".join)
def test_two_threads_train_as_one_after_the_other(ways):
    models = [
        nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
        nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)),
    ]
    expected = [_train(copy.deepcopy(model), way) for model, way in zip(models, ways, strict=True)]
    for _ in range(3):
        own = [copy.deepcopy(model) for model in models]
        found = [None, None]

        def train(place, own=own, found=found):
            found[place] = _train(own[place], ways[place])

        _in_threads(lambda train=train: train(0), lambda train=train: train(1))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
