"""Fits of curves with one input and one output, at equidistant points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ddn_core.api import ProblemParts
from ddn_plugins.problems._batches import test_batches, training_batches
from ddn_plugins.problems._metrics import absolute_error
from ddn_plugins.problems._networks import fully_connected

if TYPE_CHECKING:
    from torch import Tensor


def curve_parts(
    curve: Callable[[Tensor], Tensor], samples: int, hidden: Sequence[int], batch_size: int | None
) -> ProblemParts:
    """Return the fit of a curve on [-1, 1] by a tanh network; the test points lie halfway between the training points.

    Inputs and targets are in float64, for training in float64; the model is in torch's default dtype.

    Args:
        curve: Function that maps points `[N, 1]` to targets.
        samples: Number of training points.
        hidden: Widths of the hidden layers.
        batch_size: Number of samples in a training batch; `None` for a single batch of all samples.
    """
    import torch
    from torch.nn import MSELoss

    model = fully_connected([1, *hidden, 1], "tanh")
    points = torch.linspace(-1, 1, samples, dtype=torch.float64)[:, None]
    between = (points[1:] + points[:-1]) / 2
    return ProblemParts(
        model=model,
        loss_function=MSELoss(),
        train_batches=training_batches((points, curve(points)), batch_size),
        test_batches=test_batches((between, curve(between))),
        metrics={"absolute error": absolute_error},
    )
