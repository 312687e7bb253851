"""Random generators for Monte-Carlo samples: one for each device, from one seed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor


class DeviceGenerators:
    """Gives a generator for a device, seeded when the device is first seen; `None`, for torch's own, without a seed."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._generators: dict[str, Generator] = {}

    def __call__(self, device: torch.device) -> Generator | None:
        """Return the generator for a device."""
        if self._seed is None:
            return None
        if str(device) not in self._generators:
            self._generators[str(device)] = Generator(device).manual_seed(self._seed)
        return self._generators[str(device)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the states by device."""
        return {device: generator.get_state() for device, generator in self._generators.items()}

    def load_state_dict(self, states: Mapping[str, Tensor]) -> None:
        """Take over states that `state_dict` returned."""
        self._generators = {device: Generator(device) for device in states}
        for device, state in states.items():
            self._generators[device].set_state(state.cpu())
