"""Timing of calls on devices that work asynchronously."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch


def seconds_of(function: Callable[[], Any], device: str = "cpu") -> float:
    """Return the seconds from the start of a call until the device has finished its work."""
    wait_for(device)
    start = perf_counter()
    function()
    wait_for(device)
    return perf_counter() - start


def wait_for(device: str) -> None:
    """Wait until a device has finished all its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
