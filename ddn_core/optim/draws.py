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
        others: States of the generators of other devices, by device.
    """

    cpu: Tensor
    others: dict[torch.device, Tensor]

    @classmethod
    def now(cls, devices: Iterable[torch.device]) -> Self:
        """Return the current state.

        Args:
            devices: Devices of the tensors; the state of the processor's generator is always included.
        """
        others = {device for device in devices if device.type not in ("cpu", "meta")}
        states = {device: torch.get_device_module(device).get_rng_state(device) for device in others}
        return cls(torch.get_rng_state(), states)

    @property
    def is_current(self) -> bool:
        """True if nothing has drawn from the generators since."""
        now = Draws.now(self.others)
        return torch.equal(self.cpu, now.cpu) and all(
            torch.equal(state, now.others[device]) for device, state in self.others.items()
        )

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Return a context that draws the same random numbers again; afterwards the generators go on as before."""
        later = Draws.now(self.others)
        self.restore()
        try:
            yield
        finally:
            later.restore()

    def restore(self) -> None:
        """Set the generators to this state."""
        torch.set_rng_state(self.cpu)
        for device, state in self.others.items():
            torch.get_device_module(device).set_rng_state(state, device)
