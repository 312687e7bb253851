"""Directionally damped Newton steps for PyTorch, with dampings and direction criteria as plugins.

`DirectionalDampedNewton` is the optimizer. The computations have ViViT's interface. Plugins import `ddn_core.api`, and
their tests import `ddn_core.testing`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddn_core.computation import (
        DirectionalDampedNewtonComputation,
        DirectionalDerivativesComputation,
        EighComputation,
        EigvalshComputation,
        curvature,
    )
    from ddn_core.config import load_config
    from ddn_core.optim import DirectionalDampedNewton

__all__ = [
    "DirectionalDampedNewton",
    "DirectionalDampedNewtonComputation",
    "DirectionalDerivativesComputation",
    "EighComputation",
    "EigvalshComputation",
    "curvature",
    "load_config",
]

_MODULES = {
    "DirectionalDampedNewton": "ddn_core.optim",
    "DirectionalDampedNewtonComputation": "ddn_core.computation",
    "DirectionalDerivativesComputation": "ddn_core.computation",
    "EighComputation": "ddn_core.computation",
    "EigvalshComputation": "ddn_core.computation",
    "curvature": "ddn_core.computation",
    "load_config": "ddn_core.config",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import ddn_core.api` imports no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
