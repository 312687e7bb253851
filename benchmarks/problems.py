"""Seeded problems: an initialized network, a random batch, and the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from benchmarks.cases import Case

_SAMPLES_FOR_STATISTICS = 64
_SEED = 3


@dataclass(frozen=True)
class Batch:
    """A model with a batch of data and a loss."""

    model: nn.Module
    loss_function: nn.Module
    inputs: Tensor
    targets: Tensor

    def loss(self) -> Tensor:
        """Return the loss of the batch."""
        result: Tensor = self.loss_function(self.model(self.inputs), self.targets)
        return result


@dataclass(frozen=True)
class Problem(Batch):
    """A model in evaluation mode with a batch and the mean cross-entropy."""

    model: nn.Sequential
    loss_function: nn.CrossEntropyLoss


def make_problem(case: Case, device: str = "cpu") -> Problem:
    """Return the problem of a case, the same every time.

    Weights are normal with the variance of He et al. 2015, so that the signal does not vanish with depth. The last
    layer is scaled so that the outputs have standard deviation 1, which keeps the softmax from saturating. Inputs are
    normal, and targets are uniform. Batch normalization layers have random scales and shifts, and the statistics of
    another random batch. With the chosen seed, float32 and float64 agree on the sign of every ReLU input and on the
    position of every maximum in max-pooling. With other seeds, rounding decides a tie differently, and this alone
    changes the gradient by up to 3e-4.

    Args:
        case: Case.
        device: Device of model and data.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = case.architecture.build(case.size)
        _set_weights(model)
        _set_statistics(model, case.architecture.sample_shape)
        inputs = torch.randn(case.batch_size, *case.architecture.sample_shape)
        targets = torch.randint(case.size.classes, (case.batch_size,))
        _scale_outputs(model.eval(), inputs)
    return Problem(model.to(device), nn.CrossEntropyLoss(), inputs.to(device), targets.to(device))


def parameter_groups(model: nn.Module, grouping: str) -> list[list[Parameter]]:
    """Return the parameters of each group.

    Args:
        model: Model.
        grouping: `one-group` or `per-layer`.
    """
    layers = [list(layer.parameters(recurse=False)) for layer in model.modules()]
    groups = [parameters for parameters in layers if parameters]
    return groups if grouping == "per-layer" else [[parameter for group in groups for parameter in group]]


def _set_weights(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)


@torch.no_grad()
def _set_statistics(model: nn.Module, sample_shape: tuple[int, ...]) -> None:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0  # the statistics of the next batch replace the present ones
    if layers:
        model.train()(torch.randn(_SAMPLES_FOR_STATISTICS, *sample_shape))


@torch.no_grad()
def _scale_outputs(model: nn.Module, inputs: Tensor) -> None:
    """Divide the last layer by the standard deviation of the outputs; the layers after it are homogeneous."""
    scale = model(inputs).std()
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    for parameter in last.parameters():
        parameter.div_(scale)
