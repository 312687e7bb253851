"""Random numbers that are drawn again: dropout has the same masks before and after a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Draws:
    """State of torch's global random generators, from which the same random numbers are drawn again.

    Attributes:
        cpu: State of the generator of the processor.
        gpus: States of the generators of GPUs, by device.
    """

    cpu: Tensor
    gpus: dict[torch.device, Tensor]

    @classmethod
    def now(cls, devices: Iterable[torch.device]) -> Self:
        """Return the current state.

        Args:
            devices: Devices of the tensors; the state of the processor's generator is always included.
        """
        gpus = {device for device in devices if device.type == "cuda"}
        return cls(torch.get_rng_state(), {device: torch.cuda.get_rng_state(device) for device in gpus})

    @property
    def is_current(self) -> bool:
        """True if nothing has drawn from the generators since."""
        now = Draws.now(self.gpus)
        return torch.equal(self.cpu, now.cpu) and all(
            torch.equal(state, now.gpus[device]) for device, state in self.gpus.items()
        )

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Return a context that draws the same random numbers again; afterwards the generators go on as before."""
        later = Draws.now(self.gpus)
        self._restore()
        try:
            yield
        finally:
            later._restore()

    def _restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for device, state in self.gpus.items():
            torch.cuda.set_rng_state(state, device)
