"""Environment of a measurement: versions, threads, device and date."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.settings import Settings

_PACKAGES = (
    "torch",
    "backpack-for-pytorch",
    "ddn-core",
    "numpy",
    "scipy",
    "vivit-for-pytorch",
    "torch-levenberg-marquardt",
)


def environment(settings: Settings) -> dict[str, Any]:
    """Return the environment of a measurement as plain data."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": _device_name(settings.device),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in _PACKAGES},
        "repetitions": settings.repetitions,
        "quick": settings.quick,
    }


def environment_text(found: dict[str, Any]) -> str:
    """Return a one-line description of an environment."""
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    quick = " This is a quick run: small problems, few repetitions, no targets." if found["quick"] else ""
    return (
        f"{found['date']}, {found['device']}, {found['cores']} cores, {found['threads']} threads, "
        f"Python {found['python']}, {packages}; median of {found['repetitions']} turns.{quick}"
    )


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    if (information := Path("/proc/cpuinfo")).exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
