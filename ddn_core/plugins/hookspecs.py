"""The hooks of `ddn`: a plugin is a module that implements some of them; an entry point of group `ddn` names it.

Example:
    A complete plugin module, and the lines of its `pyproject.toml` that register it::

        from ddn_core.api import Damping, Directions, hookimpl

        class SpectralFloor(Damping, kind="acme/spectral-floor"):
            '''Lift every direction to a fraction of the largest eigenvalue.'''
            ...

        @hookimpl
        def ddn_dampings():
            return [SpectralFloor]

        # [project.entry-points."ddn"]
        # acme = "acme_ddn"
"""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from ddn_core.plugins.problem import Problem
from ddn_core.plugins.strategy import Criterion, Damping

PROJECT = "ddn"
"""Name of the pluggy project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def ddn_criteria() -> Sequence[type[Criterion]]:  # type: ignore[empty-body]
    """Return the criteria of the plugin, such as `return [MyCriterion]`."""


@hookspec
def ddn_dampings() -> Sequence[type[Damping]]:  # type: ignore[empty-body]
    """Return the dampings of the plugin, such as `return [MyDamping]`."""


@hookspec
def ddn_problems() -> Sequence[type[Problem]]:  # type: ignore[empty-body]
    """Return the problems of the plugin, such as `return [MyProblem]`."""


FAMILIES: dict[str, tuple[str, type[Criterion] | type[Damping] | type[Problem]]] = {
    "criterion": ("ddn_criteria", Criterion),
    "damping": ("ddn_dampings", Damping),
    "problem": ("ddn_problems", Problem),
}
"""Hook and base class of each family."""
