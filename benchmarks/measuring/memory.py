"""Peak extra memory of one step, in a process that does nothing else."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.measuring.clock import seconds_of
from benchmarks.sides import SIDES, GradientSide

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class PeakGauge:
    """Gauge of the peak memory above the level at its creation.

    On CUDA, this is the memory that torch's allocator handed out. Elsewhere, it is the resident memory of the process.
    Linux can reset the recorded peak. Other systems record the highest peak ever, which is the same if the measured
    peak exceeds all earlier ones.

    Attributes:
        method: Name of the source of the peak.
    """

    def __init__(self, device: str) -> None:
        """Set the gauge.

        Args:
            device: Device whose memory is measured.
        """
        self._cuda = torch.device(device).type == "cuda"
        gc.collect()
        if self._cuda:
            self.method = "torch.cuda.max_memory_allocated"
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self._level = torch.cuda.memory_allocated()
            return
        _return_free_memory()
        try:
            _CLEAR.write_text(_RESET_PEAK)
            self.method = "VmHWM, reset before the step"
        except OSError:
            self.method = "ru_maxrss"
        self._level = _resident("VmRSS") if _STATUS.exists() else _highest()

    def peak(self) -> int:
        """Return the peak in bytes above the level at creation."""
        if self._cuda:
            return torch.cuda.max_memory_allocated() - self._level
        return (_highest() if self.method == "ru_maxrss" else _resident("VmHWM")) - self._level


def memory_of_step(case: dict[str, Any], side: str, device: str) -> dict[str, Any]:
    """Return the peak extra memory of a full step, and its time, after a plain gradient step as warm-up.

    The memory includes activations, gradient and step, since no side holds any of them at the beginning.

    Args:
        case: Fields of the case.
        side: Name of the side.
        device: Device of model and data.
    """
    measured = SIDES[side](Case(**case), device)
    warm_up = GradientSide(Case(**case), device)
    warm_up.step()
    del warm_up
    gauge = PeakGauge(device)
    seconds = seconds_of(measured.step, device)
    found = {"bytes": gauge.peak(), "method": gauge.method}
    return found | {"seconds": seconds, "finite": measured.is_finite()}


def _resident(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _highest() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _return_free_memory() -> None:
    """Return freed memory to the system; otherwise the step could reuse it, and the gauge would not see it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return  # not the GNU C library
