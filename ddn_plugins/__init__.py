"""The built-in strategies and problems: an ordinary plugin with the entry point `builtin`."""

from ddn_core.api import API_VERSION, Criterion, Damping, Problem, hookimpl
from ddn_plugins import criteria, damping, problems

ddn_api_version = API_VERSION


@hookimpl
def ddn_criteria() -> list[type[Criterion]]:
    """Return the built-in criteria."""
    return criteria.ALL


@hookimpl
def ddn_dampings() -> list[type[Damping]]:
    """Return the built-in dampings."""
    return damping.ALL


@hookimpl
def ddn_problems() -> list[type[Problem]]:
    """Return the built-in problems."""
    return problems.ALL
