"""The sign and order of directions, and the same bits from the same seed and number of threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backpack import backpack, extend
from torch import nn

from ddn_core import DirectionalDampedNewton, DirectionalDampedNewtonComputation
from ddn_core.engine.spectrum import fix_signs
from ddn_core.testing import per_sample_gradients

ROOT = Path(__file__).parents[2]
CONSTANT = {"kind": "constant", "value": 0.1}
ONE_BY_ONE = {"kind": "maximum", "of": [CONSTANT]}


def _perceptron(outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 60), nn.Tanh(), nn.Linear(60, outputs)), torch.randn(140, 10)


def _convolutions(outputs=4):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, outputs)]
    return nn.Sequential(*layers), torch.randn(12, 1, 8, 8)


def _small(outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)), torch.randn(30, 3)


WAYS = {
    "Gram matrix": (_convolutions, {"kind": "all"}, {}),
    "GGN": (_small, {"kind": "all"}, {}),
    "leading pairs": (_perceptron, {"kind": "top-k", "k": 5}, {}),
    "Monte Carlo": (_convolutions, {"kind": "all"}, {"mc_samples_ggn": 2, "seed": 3}),
    "Monte Carlo of the GGN": (_small, {"kind": "all"}, {"mc_samples_ggn": 2, "seed": 3}),
    "sub-sample": (_convolutions, {"kind": "all"}, {"subsampling_ggn": [7, 1, 5], "subsampling_grad": [2, 0]}),
}


def _run(way):
    """Return the model, its data and the directions."""
    make, criterion, settings = WAYS[way]
    model, inputs = make()
    targets, loss_function = torch.arange(len(inputs)) % 4, nn.CrossEntropyLoss()
    group = {"params": list(model.parameters()), "criterion": criterion, "damping": ONE_BY_ONE}
    computation = DirectionalDampedNewtonComputation(**settings)
    model, loss_function = extend(model), extend(loss_function)
    loss = loss_function(model(inputs), targets)
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook([group])):
        loss.backward()
    return (model, loss_function, inputs, targets), computation.get_directions(group), computation.get_result(group)


@pytest.mark.parametrize("way", WAYS)
def test_eigenvalues_ascend_and_the_largest_entry_of_each_eigenvector_is_positive(way):
    problem, directions, _ = _run(way)
    assert len(directions) > 3
    assert (directions.vectors is not None) == ("GGN" in way)
    assert (len(directions.all_evals) == 5) == (way == "leading pairs")
    assert bool((directions.evals.diff() >= 0).all())
    largest = directions.evecs.abs().argmax(0, keepdim=True)
    assert bool((directions.evecs.gather(0, largest) > 0).all())
    # the sign of an eigenvector in parameter space is that of its gammas
    grad = WAYS[way][2].get("subsampling_grad", range(len(problem[2])))
    gradients = per_sample_gradients(*problem)[list(grad)]
    vectors = torch.cat([part.flatten(1) for part in directions.eigenvectors()], dim=1)
    leading = slice(-3, None)  # the others are less accurate, which is not what is tested here
    torch.testing.assert_close(directions.gammas[:, leading], gradients @ vectors.T[:, leading], rtol=1e-3, atol=1e-5)


def test_of_two_largest_entries_the_first_is_positive():
    evecs = torch.tensor([[0.0, 0.6, -0.6, 0.1], [-0.7, -0.6, 0.6, -0.6], [0.7, 0.5, 0.5, 0.6]])
    expected = torch.tensor([[0.0, 0.6, 0.6, -0.1], [0.7, -0.6, -0.6, 0.6], [-0.7, 0.5, -0.5, -0.6]])
    torch.testing.assert_close(fix_signs(evecs), expected)
    assert fix_signs(torch.zeros(3, 0)).shape == (3, 0)


@pytest.mark.parametrize("way", WAYS)
def test_two_runs_give_the_same_bits(way):
    (_, first, step), (_, second, again) = _run(way), _run(way)
    for name in ("all_evals", "evals", "evecs", "gammas", "lambdas", "loss_gammas", "loss_lambdas", "coefficients"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert all(torch.equal(one, other) for one, other in zip(step, again, strict=True))


def _trained(curvature, criterion, damping):
    """Return the bytes of the parameters after some steps, and of what was told of the last."""
    model, inputs = _perceptron()
    targets, loss_function = torch.arange(len(inputs)) % 4, nn.CrossEntropyLoss()
    groups = [{"params": ["0.*"], "criterion": criterion, "damping": damping}]
    groups.append({"params": ["*"], "criterion": {"kind": "all"}, "damping": CONSTANT})
    optimizer = DirectionalDampedNewton(model.named_parameters(), groups, lr=0.5, curvature=curvature)
    for _ in range(2):
        optimizer.zero_grad()
        optimizer.backward(loss_function(model(inputs), targets))
        optimizer.step()
    told = [report.evals for report in optimizer.last_step] + [report.coefficients for report in optimizer.last_step]
    return b"".join(tensor.detach().numpy().tobytes() for tensor in (*model.parameters(), *told))


TRAININGS = [
    (None, {"kind": "top-k", "k": 5}, CONSTANT),
    (None, {"kind": "all"}, CONSTANT),
    ({"kind": "ggn-mc", "mc_samples": 2, "seed": 0}, {"kind": "all"}, ONE_BY_ONE),
]


def digest():
    """Return a hash of some trainings; called in processes of its own, too."""
    return hashlib.sha256(b"".join(_trained(*training) for training in TRAININGS)).hexdigest()


@pytest.mark.parametrize("training", TRAININGS, ids=["leading pairs", "solve", "Monte Carlo"])
def test_two_trainings_give_the_same_bits(training):
    assert _trained(*training) == _trained(*training)


@pytest.mark.slow
def test_two_processes_with_two_threads_give_the_same_bits():
    code = "from tests.engine.test_determinism import digest; import torch; assert torch.get_num_threads() == 2; "
    code += "print(digest())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    outputs = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(outputs[0][0].strip()) == 64
    assert outputs[0][0] == outputs[1][0]


@pytest.mark.parametrize("way", WAYS)
def test_torch_s_own_random_numbers_are_left_alone(way):
    WAYS[way][0]()  # seeds torch, and draws parameters and inputs
    expected = torch.get_rng_state()
    _run(way)
    assert torch.equal(torch.get_rng_state(), expected)
