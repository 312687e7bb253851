"""Numbers of operations in a step: figures of its fixed cost that no clock disturbs.

Measured with torch 2.13 on the CPU. A step is `zero_grad()`, the forward pass, `optimizer.backward(loss)` and
`optimizer.step()`. The first two steps check the plan of the capture, and so does every 64th one; the others are
steady. A read is what makes the host wait for a GPU: `item()`, `bool()`, `tolist()`.

| case | calls, steady | calls, checked | reads, steady | reads, checked | aim: calls, reads |
| --- | --- | --- | --- | --- | --- |
| MLP 30-64-64-2 | 183 | 406 | 2 | 4 | 250, 2 |
| MLP 30-64-64-2, without settings | 198 | 456 | 4 | 6 | 200, 4 |
| MLP of nine layers of 48 | 441 | 1084 | 2 | 4 | 600, 2 |
| CNN, one Monte-Carlo sample | 287 | 539 | 5 | 7 | 300, 4 |
| MLP 30-64-64-2, top 10 | 277 | 500 | 5 | 7 | none, 4 |
| MLP 784-256-128-10, top 10 by Krylov | 962 | 1318 | 26 | 28 | none, 4 |

An SGD step takes 59 calls for the first MLP. Each bound in the tests is just above the figure. The Krylov method's
iterations depend on rounding, so that its bounds are wider.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from packaging.version import Version
from torch import nn

from benchmarks.architectures.perceptron import perceptron
from benchmarks.measuring.calls import count_calls
from ddn_core import DirectionalDampedNewton

MONTE_CARLO = {"curvature": {"kind": "ggn-mc", "mc_samples": 1, "seed": 0}}
TOP_10 = {
    "groups": [
        {"params": ["*"], "criterion": {"kind": "top-k", "k": 10}, "damping": {"kind": "constant", "value": 1.0}}
    ]
}
DAMPED = {"damping": 1.0}
SMALL_MLP = functools.partial(perceptron, [30, 64, 64, 2])


def cnn():
    convolutions = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16 * 11 * 11, 10))


def a_step(build, shape, classes, settings):
    """Return a function that makes one step, on the same batch each time."""
    model, X, y = build(), torch.randn(shape), torch.randint(classes, shape[:1])
    optimizer = DirectionalDampedNewton(model.named_parameters(), **{"lr": 0.1, **settings})

    def step():
        optimizer.zero_grad()
        optimizer.backward(F.cross_entropy(model(X), y))
        optimizer.step()

    return step


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.10"), reason="torch itself makes more calls (detach, slice) before 2.10"
)
@pytest.mark.parametrize(
    ("problem", "settings", "calls", "reads"),
    [
        pytest.param((SMALL_MLP, (64, 30), 2), DAMPED, (185, 410), (2, 4), id="MLP"),
        pytest.param((SMALL_MLP, (64, 30), 2), {"lr": 1.0}, (194, 455), (4, 6), id="MLP, without settings"),
        pytest.param((SMALL_MLP, (64, 30), 2), TOP_10, (280, 505), (5, 7), id="MLP, top 10"),
        pytest.param(
            (functools.partial(perceptron, [48] * 9 + [10]), (64, 48), 10),
            DAMPED,
            (445, 1090),
            (2, 4),
            id="nine layers",
        ),
        pytest.param((cnn, (32, 1, 28, 28), 10), MONTE_CARLO | DAMPED, (290, 545), (5, 7), id="CNN, Monte-Carlo"),
        pytest.param(
            (functools.partial(perceptron, [784, 256, 128, 10]), (64, 784), 10),
            TOP_10,
            (1000, 1360),
            (26, 28),
            id="MLP, top 10 by Krylov",
        ),
    ],
)
def test_a_step_takes_few_calls(problem, settings, calls, reads):
    """Bounds are those of a steady step and of a step that checks its plan."""
    step = a_step(*problem, settings)
    step()  # makes the plan
    checked, *steady = (count_calls(step) for _ in range(4))
    assert checked.calls <= calls[1]
    assert checked.reads <= reads[1]
    assert max(count.calls for count in steady) <= calls[0]
    assert max(count.reads for count in steady) <= reads[0]


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.10"), reason="torch itself makes more calls (detach, slice) before 2.10"
)
def test_a_retry_for_the_promised_decrease_is_a_solve_and_nothing_else():
    """The limit is decided in coordinates: the step is formed for the first damping and for the last one."""
    torch.manual_seed(0)
    model = SMALL_MLP()
    optimizer = DirectionalDampedNewton(model.named_parameters(), preset="averaged", max_decrease=0.002)
    calls = {}
    for _ in range(20):
        X, y = torch.randn(64, 30), torch.randint(2, (64,))

        def step(X=X, y=y):
            optimizer.zero_grad()
            optimizer.backward(F.cross_entropy(model(X), y))
            optimizer.step()

        count = count_calls(step)
        calls[optimizer.last_step[0].damping_factor] = count.calls  # the last ones are steady
    assert max(calls) >= 16
    for factor, number in calls.items():
        assert number <= 194 + (0 if factor == 1 else 16 * (1 + math.log(factor, 4)))


def test_no_step_takes_more_calls_than_those_that_check_the_plan():
    step = a_step(SMALL_MLP, (64, 30), 2, DAMPED)
    counts = [count_calls(step) for _ in range(70)]
    assert max(count.calls for count in counts[1:]) == counts[1].calls
    assert sum(count.calls > counts[2].calls for count in counts) == 3  # the first two and the 65th


def test_calls_and_reads_are_counted():
    tensor = torch.ones(3)
    assert count_calls(lambda: tensor.add(1)).calls == 1
    assert count_calls(lambda: tensor.add(1)).reads == 0
    assert count_calls(lambda: bool(tensor[0])).reads == 1
    assert count_calls(lambda: tensor.tolist()).reads == 1
    assert "tolist" not in vars(torch.Tensor)
