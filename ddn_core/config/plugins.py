"""The `[plugins]` table: the plugins that a config allows, and the distributions that it requires."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

from packaging.requirements import InvalidRequirement, Requirement
from pydantic import AfterValidator, Field

from ddn_core.plugins.discovery import installed_entries
from ddn_core.plugins.messages import TableModel, suggestion
from ddn_core.plugins.permission import Permission


def _checked_requirement(text: str) -> str:
    """Return a requirement, or raise a `ValueError` unless an installed distribution meets it."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{text!r} is not a requirement, such as 'ddn-acme>=1.2': {reason}") from None
    if requirement.url is not None:
        raise ValueError(f"{text!r} names a place to install from; give only a distribution and its versions")
    if requirement.marker is not None and not requirement.marker.evaluate():
        return text
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        installed = {entry.distribution for entry in installed_entries()}
        raise ValueError(
            f"needs {text}, which is not installed: pip install '{text}'.{suggestion(requirement.name, installed)}"
        ) from None
    if not requirement.specifier.contains(version, prereleases=True):
        raise ValueError(f"needs {text}, but {requirement.name} {version} is installed: pip install '{text}'")
    return text


class PluginsConfig(TableModel):
    """The plugins that the config allows, and the distributions that it requires."""

    allow: list[str] | None = Field(
        None,
        description="Names of the plugins that may be loaded in addition to the built-in one; all plugins by default.",
    )
    require: list[Annotated[str, AfterValidator(_checked_requirement)]] = Field(
        default_factory=list, description="Requirements on installed distributions, such as `ddn-acme>=1.2`."
    )

    def permission(self, source: str) -> Permission:
        """Return the permission that corresponds to `allow`.

        Args:
            source: Name of the config, for messages.
        """
        names = None if self.allow is None else frozenset(self.allow)
        return Permission(names, f"plugins.allow in {source}")
