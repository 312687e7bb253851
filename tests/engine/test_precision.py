"""Low precision: curvature in float32 or more, close to the twin of the rounded weights; and runs that repeat."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from backpack import backpack, extend
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton, DirectionalDampedNewtonComputation
from ddn_core.testing import dense_twin
from tests.engine.test_numerics import _step

TOP = {"kind": "top-k", "k": 3}
CONSTANT = {"kind": "constant", "value": 0.1}


def _problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, torch.randn(10, 6), torch.randint(0, 3, (10,))


def _difference(step, model, inputs, targets, count):
    """Return the relative difference from the float64 twin of the same weights and inputs."""
    twin = dense_twin(copy.deepcopy(model).double(), nn.CrossEntropyLoss(), inputs.double(), targets)
    size = len(twin.evals)
    kept = range(size - count, size) if count else (twin.evals > 1e-10 * twin.evals.max()).nonzero()[:, 0].tolist()
    expected = twin.step(kept, 0.1)
    return float((parameters_to_vector(step).double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("criterion", [TOP, {"kind": "all"}], ids=["top", "all"])
def test_half_precision_models_have_curvature_in_float32(dtype, criterion):
    model, inputs, targets = _problem()
    model, inputs = model.to(dtype), inputs.to(dtype)
    step, directions = _step(copy.deepcopy(model), nn.CrossEntropyLoss(), inputs, targets, CONSTANT, criterion)
    for quantity in (directions.evals, directions.evecs, directions.gammas, directions.lambdas, *step):
        assert quantity.dtype == torch.float32
        assert bool(torch.isfinite(quantity).all())
    # activations are rounded by the forward pass, ε / 2 each; the steps differ by a few such roundings
    assert _difference(step, model, inputs, targets, 3 if criterion is TOP else 0) < 8 * torch.finfo(dtype).eps


def test_autocast_forward_passes_have_curvature_in_float32():
    model, inputs, targets = _problem()
    computation = DirectionalDampedNewtonComputation()
    own, loss_function = extend(copy.deepcopy(model)), extend(nn.CrossEntropyLoss())
    top = {"kind": "top-k", "k": 2}  # the third and the fourth eigenvalue are closer than the rounding
    group = {"params": list(own.parameters()), "criterion": top, "damping": CONSTANT}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_function(own(inputs), targets)
        hook = computation.get_extension_hook([group])
        with backpack(*computation.get_extensions(), extension_hook=hook):
            loss.backward()  # inside of the context, where matrix products would be rounded, too
    step = computation.get_result(group)
    assert all(move.dtype == torch.float32 for move in step)
    assert computation.get_directions(group).evals.dtype == torch.float32
    assert _difference(step, model, inputs, targets, 2) < 8 * torch.finfo(torch.bfloat16).eps


def test_optimizer_moves_bfloat16_parameters():
    model, inputs, targets = _problem()
    model = extend(model.bfloat16())
    before = parameters_to_vector(model.parameters()).detach().clone()
    optimizer = DirectionalDampedNewton(model.named_parameters(), lr=1.0)
    loss_function = extend(nn.CrossEntropyLoss())
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        with optimizer.curvature():
            loss = loss_function(model(inputs.bfloat16()), targets)
            loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    after = parameters_to_vector(model.parameters()).detach()
    assert after.dtype == torch.bfloat16
    assert not torch.equal(after, before)
    assert losses[-1] < losses[0]


RUN = """
import torch
from backpack import backpack, extend
from torch import nn
from ddn_core import DirectionalDampedNewton
torch.set_num_threads({threads})
torch.manual_seed(0)
model = extend(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 40), nn.Tanh(), nn.Linear(40, 5)))
loss_function = extend(nn.CrossEntropyLoss())
X, y = torch.randn(120, 1, 8, 8), torch.randint(0, 5, (120,))
groups = [{{"params": ["*"], "criterion": {{"kind": "top-k", "k": 4}}, "damping": {{"kind": "relative"}}}}]
optimizer = DirectionalDampedNewton(model.named_parameters(), groups, curvature={curvature})
for _ in range(2):
    optimizer.zero_grad()
    with optimizer.curvature():
        loss_function(model(X), y).backward()
    optimizer.step()
state = torch.cat([p.detach().flatten() for p in model.parameters()])
print(state.numpy().tobytes().hex()[:4000], optimizer.last_step[0].evals.tolist())
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("curvature", [{}, {"kind": "ggn-mc", "mc_samples": 2, "seed": 3}], ids=["exact", "mc"])
def test_runs_repeat_bit_by_bit(curvature, threads):
    code = RUN.format(threads=threads, curvature=curvature)
    runs = [
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert len(runs[0]) > 4000
