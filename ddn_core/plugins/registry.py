"""Map from kind to class, for every installed plugin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from ddn_core.errors import PluginError, PluginLoadError, UnknownKindError
from ddn_core.plugins.component import Component
from ddn_core.plugins.discovery import BUILTIN, PluginEntry, PluginLoader, installed_entries
from ddn_core.plugins.messages import suggestion
from ddn_core.plugins.permission import Permission, environment_permission


@dataclass(frozen=True)
class PluginRecord:
    """A plugin as `ddn plugins` lists it.

    Attributes:
        name: Name of the plugin.
        entries: The entry points with this name; more than one is a conflict.
        components: Classes by family and kind; empty if the plugin is broken.
        error: The error that kept the plugin from loading; `None` if it was loaded.
        switched_off: The restriction that switched the plugin off, such as `DDN_PLUGINS=none`; the plugin is then not
            loaded.
    """

    name: str
    entries: list[PluginEntry]
    components: dict[str, dict[str, type[Component]]] = field(default_factory=dict)
    error: PluginError | None = None
    switched_off: str | None = None


class Registry:
    """Finds the class of a kind; a plugin is imported when one of its kinds is first looked up."""

    def __init__(self, entries: Iterable[PluginEntry], permissions: Sequence[Permission] = ()) -> None:
        """Set up a registry of plugins, without importing any.

        Args:
            entries: Entry points of the plugins.
            permissions: Restrictions; a plugin is loaded only if all of them allow it.
        """
        self._loader = PluginLoader(entries)
        self._permissions = tuple(permissions)

    def restricted(self, permission: Permission) -> Registry:
        """Return a registry with one more restriction; both registries share the plugins that are loaded."""
        other = Registry(())
        other._loader, other._permissions = self._loader, (*self._permissions, permission)
        return other

    def lookup(self, family: str, kind: str) -> type[Component]:
        """Return the class of a kind.

        Args:
            family: `"criterion"`, `"damping"` or `"problem"`.
            kind: `name` for a built-in one, `<entry point>/<name>` for a third party's.

        Raises:
            UnknownKindError: The plugin has no such kind in the family.
            PluginError: The plugin of the kind is not installed, is switched off, or cannot be loaded.
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
        except PluginLoadError as error:
            raise PluginError(f"{kind!r} needs {error.plugin}, which {error.reason}") from error.__cause__
        if kind not in kinds:
            others = [name for name in self._families_of(plugin, kind) if name != family]
            hint = f" It is a {others[0]}." if others else suggestion(kind, kinds)
            raise UnknownKindError(f"no {family} named {kind!r}.{hint}")
        return kinds[kind]

    def origin_of(self, kind: str) -> PluginEntry:
        """Return the entry point of the plugin that an existing kind belongs to."""
        plugin, slash, _ = kind.rpartition("/")
        return self._loader.entries(plugin if slash else BUILTIN)[0]

    def plugins(self) -> list[PluginRecord]:
        """Import every plugin, and return for each its classes or the error that kept it from loading."""
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
        """Return the restriction that switches a plugin off, or `None`; nothing switches the built-in one off."""
        if plugin == BUILTIN:
            return None
        return next((one.place for one in self._permissions if not one.allows(plugin)), None)

    def _families_of(self, plugin: str, kind: str) -> list[str]:
        return [family for family, kinds in self._loader.load(plugin).items() if kind in kinds]


@lru_cache(maxsize=1)
def installed_registry() -> Registry:
    """Return the registry of the installed plugins, which is made once per process and obeys `DDN_PLUGINS`."""
    return Registry(installed_entries(), [environment_permission()])
