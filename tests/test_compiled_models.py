"""Models that torch.compile has compiled make the same step, whether or not BackPACK has extended them."""

from __future__ import annotations

import copy

import pytest
import torch
from backpack import extend
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton

FREED = ()


def _moved(model, forward, inputs, targets):
    before = parameters_to_vector(model.parameters()).detach().clone()
    optimizer = DirectionalDampedNewton(model.named_parameters())
    optimizer.backward(nn.functional.cross_entropy(forward(inputs), targets))
    optimizer.step()
    return parameters_to_vector(model.parameters()).detach() - before


@pytest.mark.filterwarnings("ignore")  # torch's own, of its compiler
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=FREED)])
@pytest.mark.parametrize("order", ["compile", "extend, then compile", "compile, then extend"])
def test_a_compiled_model_makes_the_same_step(order, backend):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    inputs, targets = torch.randn(8, 4), torch.randint(0, 3, (8,))
    plain, own = copy.deepcopy(model), copy.deepcopy(model)
    expected = _moved(plain, plain, inputs, targets)
    torch._dynamo.reset()
    if order.startswith("extend"):
        extend(own)
    compiled = torch.compile(own, backend=backend)
    if order.endswith("extend"):
        extend(compiled)
    torch.testing.assert_close(_moved(own, compiled, inputs, targets), expected)
