"""Problems: what `ddn train` trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from ddn_core.plugins.component import Component

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Batches: TypeAlias = "Iterable[tuple[Tensor, Tensor]]"


@dataclass(frozen=True)
class ProblemParts:
    """A loaded problem.

    Attributes:
        model: Module built of layers that the engine supports; `ddn train` extends it.
        loss_function: Loss module with a mean or sum reduction.
        train_batches: Batches `(inputs, targets)` of the training data; iterated once per epoch.
        test_batches: Batches of the test data.
        metrics: Functions `metric(outputs, targets) -> Tensor` that give one value for each sample; their means over
            the test data are reported.
    """

    model: Module
    loss_function: Module
    train_batches: Batches
    test_batches: Batches
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)


class Problem(Component, ABC):
    """Data, model and loss that can be trained: fields are the schema, `load` builds it.

    `load` draws its random numbers from torch's own generator, which `ddn train` seeds from the config.
    """

    family: ClassVar[str] = "problem"

    @abstractmethod
    def load(self) -> ProblemParts:
        """Return model, loss, data and metrics."""
