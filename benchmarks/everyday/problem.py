"""Everyday problems: training and test data, a model, a loss, a batch size and a number of epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Samples:
    """Inputs and targets, with the samples along the first axis."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: Tensor) -> Samples:
        """Return some of the samples."""
        return Samples(self.inputs[rows], self.targets[rows])


@dataclass(frozen=True)
class Task:
    """The loss and the test error of a problem.

    Attributes:
        loss: Function that returns the mean loss of a model on samples.
        test_error: Function that returns the test error of a model on samples; lower is better.
    """

    loss: Callable[[nn.Module, Samples], Tensor]
    test_error: Callable[[nn.Module, Samples], Tensor]


@dataclass(frozen=True)
class EverydayProblem:
    """A problem as users have it: a model, data, and a number of epochs to train.

    Attributes:
        title: Data and model, in tables.
        training: Training data.
        test: Test data.
        build: Function that returns the model, with weights of torch's global generator.
        task: Loss and test error.
        batch_size: Nominal batch size; the last batch of an epoch may be smaller. 0 for all samples in one batch.
        epochs: Number of epochs.
    """

    title: str
    training: Samples
    test: Samples
    build: Callable[[], nn.Module]
    task: Task
    batch_size: int = 64
    epochs: int = 20

    @property
    def is_full_batch(self) -> bool:
        """True if each batch has all samples."""
        return not self.batch_size

    def batches(self, order: torch.Generator) -> list[Samples]:
        """Return the batches of one epoch, in a random order.

        Args:
            order: Generator of the order.
        """
        if self.is_full_batch:
            return [self.training]
        rows = torch.randperm(len(self.training), generator=order)
        return [self.training[chosen] for chosen in torch.split(rows, self.batch_size)]

    def model(self, seed: int) -> nn.Module:
        """Return the model with the initial weights of a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build()

    def training_loss(self, model: nn.Module) -> float:
        """Return the loss on all training data, without dropout and batch statistics."""
        return self._evaluated(self.task.loss, model, self.training)

    def test_error(self, model: nn.Module) -> float:
        """Return the error on the test data."""
        return self._evaluated(self.task.test_error, model, self.test)

    @staticmethod
    def _evaluated(function: Callable[[nn.Module, Samples], Tensor], model: nn.Module, samples: Samples) -> float:
        """Return a loss or an error of a model in evaluation mode; the model is in training mode afterwards."""
        model.eval()
        try:
            with torch.no_grad():
                return float(function(model, samples))
        finally:
            model.train()


def relative_error(model: nn.Module, samples: Samples) -> Tensor:
    """Return the root of the mean squared error, in standard deviations of the targets."""
    residuals: Tensor = model(samples.inputs) - samples.targets
    return (residuals.square().mean() / samples.targets.var(0, correction=0).mean()).sqrt()


def _cross_entropy(model: nn.Module, samples: Samples) -> Tensor:
    return functional.cross_entropy(model(samples.inputs), samples.targets)


def _share_of_wrong_classes(model: nn.Module, samples: Samples) -> Tensor:
    logits: Tensor = model(samples.inputs)
    return (logits.argmax(1) != samples.targets).float().mean()


def _binary_cross_entropy(model: nn.Module, samples: Samples) -> Tensor:
    return functional.binary_cross_entropy_with_logits(model(samples.inputs), samples.targets)


def _share_of_wrong_signs(model: nn.Module, samples: Samples) -> Tensor:
    logits: Tensor = model(samples.inputs)
    return ((logits > 0) != (samples.targets > 0)).float().mean()


def _squared_error(model: nn.Module, samples: Samples) -> Tensor:
    return functional.mse_loss(model(samples.inputs), samples.targets)


CLASSES = Task(_cross_entropy, _share_of_wrong_classes)
"""Classification with one output for each class; the test error is the share of wrong classes."""

YES_OR_NO = Task(_binary_cross_entropy, _share_of_wrong_signs)
"""Classification into two classes with one output, and targets of 0 and 1 with shape `[N, 1]`."""

VALUES = Task(_squared_error, relative_error)
"""Regression; the test error is relative to the standard deviation of the targets."""
