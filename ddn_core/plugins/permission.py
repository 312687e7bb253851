"""Restrictions on the plugins that may be loaded, from the environment, the command line or a config."""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLE = "DDN_PLUGINS"
"""Environment variable that restricts plugins: names separated by commas, `none`, or `all`."""


@dataclass(frozen=True)
class Permission:
    """The plugins that one restriction allows.

    Attributes:
        names: Names of the plugins; `None` for all.
        place: Origin of the restriction, for messages, such as `DDN_PLUGINS=none`.
    """

    names: frozenset[str] | None
    place: str

    @classmethod
    def of_text(cls, text: str, place: str) -> Permission:
        """Return the permission in a text: names separated by commas, `none`, or `all`."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        names = None if words == ["all"] else frozenset(words) - {"none"}
        return cls(names, place)

    def allows(self, name: str) -> bool:
        """Return whether a plugin may be loaded."""
        return self.names is None or name in self.names


def environment_permission() -> Permission:
    """Return the permission in the environment variable, or permission for all plugins if it is not set."""
    text = os.environ.get(VARIABLE)
    return Permission(None, VARIABLE) if text is None else Permission.of_text(text, f"{VARIABLE}={text}")
