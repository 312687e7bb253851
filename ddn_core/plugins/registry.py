"""Kind -> class, for every installed plugin."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from ddn_core.errors import PluginError
from ddn_core.plugins.component import Component
from ddn_core.plugins.discovery import BUILTIN, PluginEntry, PluginLoader, installed_entries
from ddn_core.plugins.messages import suggestion


@dataclass(frozen=True)
class PluginRecord:
    """A plugin as `ddn plugins` lists it.

    Attributes:
        name: Name of the plugin.
        entries: Who claims the name; more than one is a conflict.
        components: Classes by family and kind; empty if the plugin is broken.
        error: Why the plugin could not be loaded.
    """

    name: str
    entries: list[PluginEntry]
    components: dict[str, dict[str, type[Component]]] = field(default_factory=dict)
    error: PluginError | None = None


class Registry:
    """Looks kinds up; a plugin is imported when one of its kinds is first looked up."""

    def __init__(self, entries: Iterable[PluginEntry]) -> None:
        """Take the plugins as they were found; nothing is imported."""
        self._loader = PluginLoader(entries)

    def lookup(self, family: str, kind: str) -> type[Component]:
        """Return the class of a kind.

        Args:
            family: `"criterion"`, `"damping"` or `"problem"`.
            kind: `name` for a built-in one, `<entry point>/<name>` for a third party's.

        Raises:
            PluginError: There is no such kind, or the plugin that it belongs to is missing or broken.
        """
        plugin, slash, _ = kind.rpartition("/")
        plugin = plugin if slash else BUILTIN
        if not self._loader.entries(plugin):
            raise PluginError(
                f"{kind!r} needs plugin {plugin!r}, which is not installed.{suggestion(plugin, self._loader.names)}"
            )
        try:
            kinds = self._loader.load(plugin)[family]
        except PluginError as error:
            entries = self._loader.entries(plugin)
            known = f" ({entries[0]})" if len(entries) == 1 else ""
            reason = str(error).removeprefix(f"plugin {plugin!r}{known} ")
            raise PluginError(f"{kind!r} needs plugin {plugin!r}{known}, which {reason}") from error.__cause__
        if kind not in kinds:
            others = [name for name in self._families_of(plugin, kind) if name != family]
            hint = f" It is a {others[0]}." if others else suggestion(kind, kinds)
            raise PluginError(f"no {family} named {kind!r}.{hint}")
        return kinds[kind]

    def origin_of(self, kind: str) -> PluginEntry:
        """Return the plugin that a kind, known to exist, belongs to."""
        plugin, slash, _ = kind.rpartition("/")
        return self._loader.entries(plugin if slash else BUILTIN)[0]

    def plugins(self) -> list[PluginRecord]:
        """Import every plugin, and return what each brings or why it cannot be loaded."""
        records = []
        for name in self._loader.names:
            try:
                record = PluginRecord(name, self._loader.entries(name), components=self._loader.load(name))
            except PluginError as error:
                record = PluginRecord(name, self._loader.entries(name), error=error)
            records.append(record)
        return records

    def _families_of(self, plugin: str, kind: str) -> list[str]:
        return [family for family, kinds in self._loader.load(plugin).items() if kind in kinds]


@lru_cache(maxsize=1)
def installed_registry() -> Registry:
    """Return the registry of the installed plugins, found once per process."""
    return Registry(installed_entries())
