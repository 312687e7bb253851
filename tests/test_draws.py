"""The loss after a step is computed with the random numbers of the loss before it, such as the masks of dropout."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, TensorDataset

from ddn_core import DirectionalDampedNewton
from ddn_core.config import parse_config
from ddn_core.errors import ArgumentError
from ddn_core.optim import Draws
from ddn_core.plugins.problem import ProblemParts
from ddn_core.training.stepping import stepper_of

UNDOING = {"damping": {"kind": "levenberg-marquardt"}, "step": {"on_increase": "undo"}}


class Watched(nn.Module):
    """A small model with dropout that notes what its masks were."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.masks = nn.Linear(4, 20), nn.Linear(20, 3), []

    def forward(self, X):
        hidden = functional.dropout(torch.exp(self.first(X)), 0.5, self.training)
        self.masks.append(hidden != 0)
        return self.last(hidden)


@pytest.fixture
def problem():
    return Watched(), torch.rand(12, 4), torch.randint(0, 3, (12,))


def closure_of(model, optimizer, X, y, losses):
    def closure():
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(X), y)
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    return closure


@pytest.mark.parametrize("settings", [{}, UNDOING, {**UNDOING, "step": {"on_increase": "search"}}])
def test_a_closure_draws_the_same_numbers_again(problem, settings):
    """The generator then goes on as if the loss had been computed once."""
    model, X, y = problem
    optimizer = DirectionalDampedNewton(model.named_parameters(), **settings)
    before, losses = torch.get_rng_state(), []
    optimizer.step(closure_of(model, optimizer, X, y, losses))
    after = torch.get_rng_state()
    assert len(losses) > 1
    assert all(torch.equal(mask, model.masks[0]) for mask in model.masks)
    torch.set_rng_state(before)
    model(X)
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(model(X) != 0, model.masks[0])


def test_each_step_has_numbers_of_its_own(problem):
    model, X, y = problem
    optimizer = DirectionalDampedNewton(model.named_parameters())
    for _ in range(2):
        optimizer.step(closure_of(model, optimizer, X, y, []))
    assert len({tuple(mask.flatten().tolist()) for mask in model.masks}) == 2


@pytest.mark.parametrize("settings", [{}, UNDOING])
def test_a_closure_that_draws_other_numbers_than_the_pass_is_refused(problem, settings):
    """Nothing has moved, and the step can be made without a closure where that is allowed."""
    model, X, y = problem
    optimizer = DirectionalDampedNewton(model.named_parameters(), **settings)
    optimizer.backward(functional.cross_entropy(model(X), y))
    start = parameters_to_vector(model.parameters()).clone()
    with pytest.raises(ArgumentError, match=r"(?s)closure draws random numbers, .* the step has been undone\. Let the"):
        optimizer.step(lambda: functional.cross_entropy(model(X), y))
    assert torch.equal(parameters_to_vector(model.parameters()), start)
    if not settings:
        optimizer.step()
        assert not torch.equal(parameters_to_vector(model.parameters()), start)


def test_if_the_step_cannot_be_undone_the_error_says_so(problem):
    model, X, y = problem
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping={"kind": "levenberg-marquardt"})
    optimizer.backward(functional.cross_entropy(model(X), y))
    with pytest.raises(ArgumentError, match="the step has been made"):
        optimizer.step(lambda: functional.cross_entropy(model(X), y))


def test_random_numbers_that_do_not_change_the_loss_are_no_error(problem):
    """Such as the seed that each iterator of a loader draws."""
    _, X, y = problem
    model = nn.Linear(4, 3)
    loader = DataLoader(TensorDataset(X, y), batch_size=4)
    optimizer = DirectionalDampedNewton(model.named_parameters())

    def loss_of_all():
        return sum(functional.cross_entropy(model(inputs), targets) for inputs, targets in loader) / 3

    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward(functional.cross_entropy(model(X), y))
        state = torch.get_rng_state()
        optimizer.step(loss_of_all)
        assert not torch.equal(torch.get_rng_state(), state)


def test_the_users_own_repetition_is_accepted(problem):
    model, X, y = problem
    optimizer = DirectionalDampedNewton(model.named_parameters(), **UNDOING)
    draws = Draws.now([X.device])
    optimizer.backward(functional.cross_entropy(model(X), y))
    assert not draws.is_current

    def loss_after():
        with draws.repeated():
            return functional.cross_entropy(model(X), y)

    optimizer.step(loss_after)
    assert torch.equal(*model.masks)


def test_a_training_repeats_the_numbers_of_its_steps(problem):
    """With a step that rounding swallows, the loss after the step is the loss before it, bit by bit."""
    model, X, y = problem
    group = {"params": ["*"], "damping": {"kind": "levenberg-marquardt"}, "criterion": {"kind": "all"}, "lr": 1e-20}
    config = parse_config({"problem": {"kind": "digits-mlp"}, "groups": [group]})
    stepper = stepper_of(config, ProblemParts(model, nn.CrossEntropyLoss(), [(X, y)], [(X, y)]), "c")
    for _ in range(2):
        figures = stepper.step(X, y)
        assert figures.loss_after == figures.loss
    assert torch.equal(model.masks[0], model.masks[1])
    assert not torch.equal(model.masks[0], model.masks[2])
