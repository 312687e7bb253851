"""The free memory of a device."""

from __future__ import annotations

import os
from pathlib import Path

import torch

MARGIN = 0.9
"""Share of the free memory that may be used; the rest is left to other processes."""


def free_bytes(device: torch.device) -> int | None:
    """Return the number of bytes that can be allocated on a device; `None` if the system does not report it."""
    if device.type == "cuda":
        held_back = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(MARGIN * (torch.cuda.mem_get_info(device)[0] + held_back))
    available = _available_to_processes()
    return None if available is None else int(MARGIN * available)


def _available_to_processes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()  # Linux: includes reclaimable caches
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
