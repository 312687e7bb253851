"""Base class of problems, which `ddn train` trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from ddn_core.errors import PluginError
from ddn_core.plugins.component import Component

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Batches: TypeAlias = "Iterable[tuple[Tensor, Tensor]]"


@dataclass(frozen=True)
class ProblemParts:
    """A loaded problem.

    Attributes:
        model: Any module that takes a batch of inputs.
        loss_function: Loss module with mean or sum reduction.
        train_batches: Batches `(inputs, targets)` of the training data; iterated once per epoch.
        test_batches: Batches of the test data.
        metrics: Functions `metric(outputs, targets) -> Tensor` that return one value per sample; `ddn train` reports
            their means over the test data.
    """

    model: Module
    loss_function: Module
    train_batches: Batches
    test_batches: Batches
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)


class Problem(Component, ABC):
    """A training problem: its fields are its schema, and `load` returns model, loss and data.

    `load` draws its random numbers from torch's global generator, which `ddn train` seeds from the config.
    """

    family: ClassVar[str] = "problem"

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a private attribute.

        Raises:
            PluginError: The attribute is public.
        """
        if not name.startswith("_"):
            raise PluginError(
                f"{self.label()} sets the attribute {name!r}, but a problem cannot change its fields, which are the "
                f"user's settings. Use a local variable, or declare `_{name}: ... = PrivateAttr(...)` in "
                f"{type(self).__name__}, and set `self._{name}`."
            )
        super().__setattr__(name, value)

    @abstractmethod
    def load(self) -> ProblemParts:
        """Return model, loss, data and metrics."""
