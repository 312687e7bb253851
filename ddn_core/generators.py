"""Random generators for Monte-Carlo samples: one for each device, from one seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from ddn_core.errors import ArgumentError


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

    def loaded(self, states: Mapping[str, Tensor]) -> DeviceGenerators:
        """Return generators with the same seed, in the states that `state_dict` returned.

        Raises:
            ArgumentError: A state is of a device that is not there.
        """
        other = DeviceGenerators(self._seed)
        for device, state in states.items():
            try:
                other._generators[device] = Generator(device)
                other._generators[device].set_state(state.cpu())
            except RuntimeError as error:
                raise ArgumentError(
                    f"the state has random numbers of device {device}, which cannot be used: {error}"
                ) from error
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Return seed and states: generators themselves cannot be copied."""
        return {"seed": self._seed, "states": self.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what `__getstate__` returned."""
        self._seed = state["seed"]
        self._generators = DeviceGenerators(self._seed).loaded(state["states"])._generators
