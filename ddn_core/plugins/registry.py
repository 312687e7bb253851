"""Kind -> class, for every installed plugin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from ddn_core.errors import PluginError
from ddn_core.plugins.component import Component
from ddn_core.plugins.discovery import BUILTIN, PluginEntry, PluginLoader, installed_entries
from ddn_core.plugins.messages import suggestion
from ddn_core.plugins.permission import Permission, environment_permission


@dataclass(frozen=True)
class PluginRecord:
    """A plugin as `ddn plugins` lists it.

    Attributes:
        name: Name of the plugin.
        entries: Who claims the name; more than one is a conflict.
        components: Classes by family and kind; empty if the plugin is broken.
        error: Why the plugin could not be loaded.
        switched_off: What switched the plugin off; it was not loaded then.
    """

    name: str
    entries: list[PluginEntry]
    components: dict[str, dict[str, type[Component]]] = field(default_factory=dict)
    error: PluginError | None = None
    switched_off: str | None = None


class Registry:
    """Looks kinds up; a plugin is imported when one of its kinds is first looked up."""

    def __init__(self, entries: Iterable[PluginEntry], permissions: Sequence[Permission] = ()) -> None:
        """Take the plugins as they were found; nothing is imported.

        Args:
            entries: The plugins.
            permissions: What restricts which of them may be loaded; all of these have to allow one.
        """
        self._loader = PluginLoader(entries)
        self._permissions = tuple(permissions)

    def restricted(self, permission: Permission) -> Registry:
        """Return a registry that loads only what a permission allows too; what has been loaded is shared."""
        other = Registry(())
        other._loader, other._permissions = self._loader, (*self._permissions, permission)
        return other

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
        entries = self._loader.entries(plugin)
        known = f" ({entries[0]})" if len(entries) == 1 else ""
        if (place := self._switched_off(plugin)) is not None:
            raise PluginError(f"{kind!r} needs plugin {plugin!r}{known}, which is switched off by {place}.")
        try:
            kinds = self._loader.load(plugin)[family]
        except PluginError as error:
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
            if (place := self._switched_off(name)) is not None:
                records.append(PluginRecord(name, self._loader.entries(name), switched_off=place))
                continue
            try:
                record = PluginRecord(name, self._loader.entries(name), components=self._loader.load(name))
            except PluginError as error:
                record = PluginRecord(name, self._loader.entries(name), error=error)
            records.append(record)
        return records

    def _switched_off(self, plugin: str) -> str | None:
        """Return what switched a plugin off, or `None`; the built-in one always is on."""
        if plugin == BUILTIN:
            return None
        return next((one.place for one in self._permissions if not one.allows(plugin)), None)

    def _families_of(self, plugin: str, kind: str) -> list[str]:
        return [family for family, kinds in self._loader.load(plugin).items() if kind in kinds]


@lru_cache(maxsize=1)
def installed_registry() -> Registry:
    """Return the registry of the installed plugins, found once per process; `DDN_PLUGINS` restricts them."""
    return Registry(installed_entries(), [environment_permission()])
