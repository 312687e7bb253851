"""Random models, batches, losses, groupings and sub-samplings against the twin; devices."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from backpack import backpack, extend
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton, DirectionalDampedNewtonComputation
from ddn_core.testing import dense_twin
from tests.engine.cases import LOSSES
from tests.profiles import examples

DAMPING = 0.3


@st.composite
def problems(draw):
    """A random network with data, and random settings of the computation."""
    widths = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    positions = draw(st.sampled_from([(), (2,), (1, 3)]))
    activation = draw(st.sampled_from([nn.Tanh, nn.ReLU, nn.Sigmoid]))
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=draw(st.booleans())), activation()]
    model = nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(widths[-1] * torch.Size(positions).numel(), draw(st.integers(1, 4)))
    )
    samples = draw(st.integers(1, 5))
    subsets = st.none() | st.lists(st.integers(0, samples - 1), min_size=1, unique=True)
    seed = draw(st.integers(0, 2**16))
    loss = draw(st.sampled_from(sorted(LOSSES)))
    reduction = draw(st.sampled_from(["mean", "sum"]))
    per_parameter = draw(st.booleans())
    return model, (samples, *positions, widths[0]), seed, loss, reduction, draw(subsets), draw(subsets), per_parameter


@examples(20)
@given(problems())
def test_random_problems_match_the_twin(problem):
    model, shape, seed, loss, reduction, grad, ggn, per_parameter = problem
    torch.manual_seed(seed)
    model = model.double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    inputs = torch.randn(shape, dtype=torch.float64)
    make_loss, make_targets = LOSSES[loss]
    loss_function, targets = make_loss(reduction), make_targets(model(inputs).detach())
    named = list(model.named_parameters())
    blocks = [[name] for name, _ in named] if per_parameter else [[name for name, _ in named]]
    twins = [dense_twin(model, loss_function, inputs, targets, names, grad, ggn) for names in blocks]

    damping = {"kind": "constant", "value": DAMPING}
    parameters = dict(named)
    groups = [
        {"params": [parameters[name] for name in names], "criterion": {"kind": "all"}, "damping": damping}
        for names in blocks
    ]
    computation = DirectionalDampedNewtonComputation(subsampling_grad=grad, subsampling_ggn=ggn)
    extend(model), extend(loss_function)
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook(groups)):
        loss_function(model(inputs), targets).backward()

    for group, twin in zip(groups, twins, strict=True):
        directions = computation.get_directions(group)
        largest = float(twin.evals.max())
        kept = (twin.evals > 1e-13 * largest).nonzero()[:, 0].tolist()
        torch.testing.assert_close(directions.evals.sum(), twin.evals.clamp(min=0).sum(), rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(directions.lambdas.sum(), twin.lambdas.sum(), rtol=1e-7, atol=1e-10)
        step = parameters_to_vector(computation.get_result(group))
        every = range(shape[0])
        if set(grad or every) <= set(ggn or every):  # the gradient is in the span of V, and nothing is cut off
            reduced = twin.gammas.mean(0) if reduction == "mean" else twin.gammas.sum(0)
            matrix = twin.vectors @ torch.diag(twin.evals) @ twin.vectors.T
            damped = matrix + DAMPING * torch.eye(len(matrix), dtype=torch.float64)
            solution = -torch.linalg.solve(damped, twin.vectors @ reduced)
            torch.testing.assert_close(step, solution, rtol=1e-6, atol=1e-8 * (1 + float(solution.abs().max())))
            continue
        expected = twin.step(kept, DAMPING)
        # A direction at the edge of the null space, λ_k ≤ R ε λ_max, may be kept on one side and dropped on the other.
        # With g = V c its part of the step is at most √λ_k ‖c‖ / δ, and ‖c‖ ≤ ‖γ̄ / √λ‖ over what is kept.
        edge = (directions.all_evals.numel() * torch.finfo(torch.float64).eps * largest) ** 0.5
        size = float((directions.loss_gammas / directions.evals.sqrt()).norm())
        torch.testing.assert_close(step, expected, rtol=1e-6, atol=1e-9 + 3 * edge * size / DAMPING)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("curvature", [{}, {"kind": "ggn-mc", "mc_samples": 2, "seed": 0}], ids=["exact", "mc"])
def test_cuda_trains_as_the_cpu_does(curvature):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)).double()
    inputs, targets = torch.rand(8, 1, 5, 5, dtype=torch.float64), torch.randint(0, 3, (8,))
    steps = []
    for device in ("cpu", "cuda"):
        own, loss_function = copy.deepcopy(model).to(device), nn.CrossEntropyLoss()
        groups = [
            {
                "params": ["*"],
                "criterion": {"kind": "any-of", "of": [{"kind": "top-k"}]},
                "damping": {"kind": "relative"},
            }
        ]
        optimizer = DirectionalDampedNewton(own.named_parameters(), groups, curvature=curvature)
        with optimizer.curvature():
            loss_function(own(inputs.to(device)), targets.to(device)).backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        steps.append(parameters_to_vector(own.parameters()).detach().cpu())
    assert bool(torch.isfinite(steps[1]).all())
    if not curvature:  # devices draw different samples
        torch.testing.assert_close(*steps)
