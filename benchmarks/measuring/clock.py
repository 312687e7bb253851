"""How long a call takes, on a device that works on while Python goes on."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch


def seconds_of(function: Callable[[], Any], device: str = "cpu") -> float:
    """Return how long a call takes, until the device is done with it."""
    wait_for(device)
    start = perf_counter()
    function()
    wait_for(device)
    return perf_counter() - start


def wait_for(device: str) -> None:
    """Wait until a device has nothing left to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
