"""Small models that memory is looked at with, and a trainer that tells what it did."""

from __future__ import annotations

import weakref

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddn_core import DirectionalDampedNewton
from ddn_core.engine.capture.backward_pass import CurvaturePass

ALL, TOP = {"kind": "all"}, {"kind": "top-k", "k": 3}
CONSTANT = {"kind": "constant", "value": 0.1}


def _convolutions(samples=12):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 4)
    )
    return model, torch.randn(samples, 2, 8, 8), torch.arange(samples) % 4


def _perceptron(samples=12):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 4))
    return model, torch.randn(samples, 7), torch.arange(samples) % 4


def _sequence(samples=12):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3), nn.Flatten(), nn.Linear(12, 4))
    return model, torch.randn(samples, 4, 6), torch.arange(samples) % 4


def _curve(samples=12):
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 4)),
        torch.randn(samples, 1),
        torch.arange(samples) % 4,
    )


MODELS = {"convolutions": _convolutions, "perceptron": _perceptron, "sequence": _sequence, "a curve": _curve}
CURVATURES = {"exact": {}, "Monte Carlo": {"kind": "ggn-mc", "mc_samples": 6, "seed": 0}}


class Trainer:
    """A model in float64 with an optimizer, and what its passes did."""

    def __init__(self, make, criterion=ALL, damping=CONSTANT, groups=None, samples=12, **curvature):
        self.model, self.inputs, self.targets = make(samples)
        self.model, self.inputs = self.model.double(), self.inputs.double()
        self.loss_function = nn.CrossEntropyLoss()
        groups = groups or [["*"]]
        tables = [{"params": names, "criterion": criterion, "damping": damping} for names in groups]
        self.optimizer = DirectionalDampedNewton(self.model.named_parameters(), tables, curvature=curvature)

    def backward(self):
        self.optimizer.zero_grad()
        self.optimizer.backward(self.loss_function(self.model(self.inputs), self.targets))

    def step(self):
        """Return the move of a step."""
        before = parameters_to_vector(self.model.parameters()).detach().clone()
        self.backward()
        self.optimizer.step()
        return parameters_to_vector(self.model.parameters()).detach() - before


def noted_plans(monkeypatch):
    """Return a list that the plan of each pass is added to, once it fits the budget."""
    plans, prepare = [], CurvaturePass._prepare

    def note(current, plan):
        plans.append(prepare(current, plan))
        return plans[-1]

    monkeypatch.setattr(CurvaturePass, "_prepare", note)
    return plans


class AllocatedBytes(TorchDispatchMode):
    """Bytes of the memory that operations of torch allocate inside a block.

    Attributes:
        now: Bytes that are in use.
        most: Most bytes that were in use after an operation.
    """

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for one in tree_leaves((args, kwargs)):
            if isinstance(one, torch.Tensor):
                self._known.add(one.untyped_storage())  # it was there before
        found = function(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if isinstance(one, torch.Tensor) and (storage := one.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return found

    def _free(self, size):
        self.now -= size
