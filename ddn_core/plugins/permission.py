"""Which plugins may be loaded: the environment, the command line and a config can each restrict them."""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLE = "DDN_PLUGINS"
"""Environment variable that restricts plugins: names with commas between them, `none`, or `all`."""


@dataclass(frozen=True)
class Permission:
    """The plugins that one place allows.

    Attributes:
        names: Names of the plugins; `None` for all.
        place: What restricts them, for messages: `DDN_PLUGINS=none`.
    """

    names: frozenset[str] | None
    place: str

    @classmethod
    def of_text(cls, text: str, place: str) -> Permission:
        """Return the permission that a text gives: names with commas between them, `none`, or `all`."""
        words = [word.strip() for word in text.split(",") if word.strip()]
        names = None if words == ["all"] else frozenset(words) - {"none"}
        return cls(names, place)

    def allows(self, name: str) -> bool:
        """Return whether a plugin may be loaded."""
        return self.names is None or name in self.names


def environment_permission() -> Permission:
    """Return the permission that the environment gives; all plugins, where it says nothing."""
    text = os.environ.get(VARIABLE)
    return Permission(None, VARIABLE) if text is None else Permission.of_text(text, f"{VARIABLE}={text}")
