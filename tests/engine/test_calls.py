"""Numbers of operations in a step: figures of its fixed cost that no clock disturbs.

Measured with torch 2.13 on the CPU. A step is `zero_grad()`, the forward pass, `optimizer.backward(loss)` and
`optimizer.step()`. The first two steps check the plan of the capture, and so does every 64th one; the others are
steady. A read is what makes the host wait for a GPU: `item()`, `bool()`, `tolist()`.

| case | calls, steady | calls, checked | reads, steady | reads, checked | aim: calls, reads |
| --- | --- | --- | --- | --- | --- |
| MLP 30-64-64-2 | 221 | 440 | 2 | 4 | 250, 2 |
| MLP of nine layers of 48 | 527 | 1160 | 2 | 4 | 600, 2 |
| CNN, one Monte-Carlo sample | 366 | 630 | 11 | 13 | 300, 4 |
| MLP 30-64-64-2, top 10 | 308 | 527 | 12 | 14 | none, 4 |
| MLP 784-256-128-10, top 10 by Krylov | 981 | 1299 | 31 | 32 | none, 4 |

An SGD step takes 54 calls for the first MLP. Each bound in the tests is the aim where the aim is met, and otherwise just
above the figure. The Krylov method's iterations depend on rounding, so that its bounds are wider.
"""

from __future__ import annotations

import functools

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
        pytest.param((SMALL_MLP, (64, 30), 2), DAMPED, (225, 460), (2, 4), id="MLP"),
        pytest.param((SMALL_MLP, (64, 30), 2), {"lr": 1.0}, (305, 600), (4, 7), id="MLP, without settings"),
        pytest.param((SMALL_MLP, (64, 30), 2), TOP_10, (300, 530), (5, 7), id="MLP, top 10"),
        pytest.param(
            (functools.partial(perceptron, [48] * 9 + [10]), (64, 48), 10),
            DAMPED,
            (600, 1240),
            (2, 6),
            id="nine layers",
        ),
        pytest.param((cnn, (32, 1, 28, 28), 10), MONTE_CARLO | DAMPED, (330, 590), (5, 7), id="CNN, Monte-Carlo"),
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
