"""The settings of a capture, which all passes of an optimizer or a computation share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Generator

from ddn_core.engine.capture.memory import free_bytes
from ddn_core.engine.capture.subsampling import Subsampling
from ddn_core.engine.losses import ExactRoot, Root

ALWAYS_FREE = 2**28
"""Number of bytes for which the free memory is not looked up."""


@dataclass(frozen=True)
class CaptureSettings:
    """Settings of the capture of a pass.

    Attributes:
        subsampling: Samples of the gradient, of the directions and of the directional curvatures.
        root: Kind of curvature.
        generator: Returns the random generator for a device; `None` for torch's own.
        memory_budget: Number of bytes that curvature may use in addition to the gradient's memory; `"auto"` for the
            free memory, `None` for no limit.
    """

    subsampling: Subsampling = field(default_factory=Subsampling)
    root: Root = field(default_factory=ExactRoot)
    generator: Callable[[torch.device], Generator | None] = lambda device: None
    memory_budget: int | Literal["auto"] | None = "auto"

    def budget(self, needed: int, device: torch.device) -> int | None:
        """Return the memory budget on a device, in bytes; `None` for no limit, or if little is needed.

        Args:
            needed: Number of bytes that the capture needs without a limit.
            device: The device.
        """
        if self.memory_budget == "auto":
            return None if needed < ALWAYS_FREE else free_bytes(device)
        return self.memory_budget
