"""Implements a hook that does not exist."""

from __future__ import annotations

from ddn_core.api import hookimpl


@hookimpl
def ddn_damping() -> list[type]:
    """Return nothing; the hook is `ddn_dampings`."""
    return []
