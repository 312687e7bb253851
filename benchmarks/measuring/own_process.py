"""Calls of a function in a separate process, with limits on its time and memory.

The arguments and the result are passed as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.measuring.failure import FAILED, OUT_OF_MEMORY, OVER_TIME, failure, failure_of
from benchmarks.settings import Settings

ROOT = Path(__file__).parents[2]
_SHARE_OF_FREE_MEMORY = 0.9
_KILLED = -9


def in_own_process(
    function: Callable[..., dict[str, Any]], arguments: dict[str, Any], settings: Settings, limit: float | None = None
) -> dict[str, Any]:
    """Return the result of a function that runs in a separate process, or a failure.

    Args:
        function: Module-level function that returns plain data.
        arguments: Its keyword arguments, as plain data.
        settings: Settings with the number of threads and the time limit.
        limit: Time limit in seconds, with imports; by default, that of the settings.
    """
    limit = limit or settings.limit
    with TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        order = {"function": [function.__module__, function.__name__], "arguments": arguments, "result": str(result)}
        command = [sys.executable, "-m", __name__, json.dumps(order)]
        threads = {name: str(settings.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        try:
            process = subprocess.run(
                command, cwd=ROOT, env=os.environ | threads, timeout=limit, capture_output=True, text=True
            )
        except subprocess.TimeoutExpired:
            return failure(OVER_TIME, f"{limit:.0f} s")
        if result.exists():
            returned: dict[str, Any] = json.loads(result.read_text())
            return returned
        if process.returncode == _KILLED:
            return failure(OUT_OF_MEMORY, "the process was killed")
        return failure(FAILED, process.stderr.strip()[-500:])


def _leave_memory_to_others() -> None:
    """Limit allocations to the memory that is free, so that other processes are not affected."""
    free = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    taken = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    kilobytes = _SHARE_OF_FREE_MEMORY * int(free.split()[1]) + int(taken.split()[1])
    resource.setrlimit(resource.RLIMIT_AS, (int(kilobytes) * 1024, resource.RLIM_INFINITY))


def _carry_out(order: dict[str, Any]) -> None:
    module, name = order["function"]
    function = getattr(importlib.import_module(module), name)
    if Path("/proc/meminfo").exists() and order["arguments"].get("device", "cpu") == "cpu":
        _leave_memory_to_others()  # after the imports, which reserve more address space than they use
    try:
        returned = function(**order["arguments"])
    except Exception as error:
        returned = failure_of(error)
    Path(order["result"]).write_text(json.dumps(returned))


if __name__ == "__main__":
    _carry_out(json.loads(sys.argv[1]))
