"""Random generators for Monte-Carlo samples: one for each device, all with one seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from ddn_core.errors import ArgumentError


class DeviceGenerators:
    """Random generators by device; without a seed, `None` stands for torch's global generator."""

    def __init__(self, seed: int | None) -> None:
        self._seed = seed
        self._generators: dict[str, Generator] = {}

    def __call__(self, device: torch.device) -> Generator | None:
        """Return the generator for a device, and create it on the first call."""
        if self._seed is None:
            return None
        if str(device) not in self._generators:
            self._generators[str(device)] = Generator(device).manual_seed(self._seed)
        return self._generators[str(device)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the states of the generators, by device."""
        return {device: generator.get_state() for device, generator in self._generators.items()}

    def loaded(self, states: Mapping[str, Tensor]) -> DeviceGenerators:
        """Return generators with the same seed, in states that `state_dict` returned.

        Raises:
            ArgumentError: The device of a state is not available.
        """
        other = DeviceGenerators(self._seed)
        for device, state in states.items():
            try:
                other._generators[device] = Generator(device)
                other._generators[device].set_state(state.cpu())
            except RuntimeError as error:
                raise ArgumentError(
                    f"the state of the random numbers is of device {device}, which cannot be used: {error}. Load it "
                    "on a machine with this device."
                ) from error
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Return seed and states, since generators cannot be copied."""
        return {"seed": self._seed, "states": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore seed and states."""
        self._seed = state["seed"]
        self._generators = DeviceGenerators(self._seed).loaded(state["states"])._generators
