"""From entry points to plugins: found by metadata alone, imported one by one and only when they are first needed.

pluggy's own `load_setuptools_entrypoints` imports all or nothing, and hides it when two distributions claim one name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module, metadata

import pluggy

from ddn_core.errors import PluginError
from ddn_core.plugins import hookspecs
from ddn_core.plugins.component import Component
from ddn_core.plugins.messages import suggestion

BUILTIN = "builtin"
"""Name of the entry point of the built-in strategies, whose kinds have no prefix."""

OWN = "ddn-core"
"""Our own distribution."""

API_VERSION = 1
"""Version of what `ddn_core.api` offers to plugins; it grows when a plugin has to be changed for it."""

OLDEST_API_VERSION = 1
"""The oldest version that plugins may be written for."""


@dataclass(frozen=True)
class PluginEntry:
    """An entry point of group `ddn`, as the metadata of installed distributions tell.

    Attributes:
        name: Name of the plugin, the prefix of its kinds.
        module: Module that implements the hooks.
        distribution: Name of the distribution that brings it.
        version: Version of that distribution.
    """

    name: str
    module: str
    distribution: str
    version: str

    def __str__(self) -> str:
        """Return distribution and version, `ddn-acme 1.2`."""
        return f"{self.distribution} {self.version}"


def installed_entries() -> list[PluginEntry]:
    """Return every installed plugin, ordered by name; nothing is imported."""
    found = {
        PluginEntry(entry.name, entry.value, entry.dist.name, entry.dist.version)
        for entry in metadata.entry_points(group=hookspecs.PROJECT)
        if entry.dist is not None
    }
    return sorted(found, key=lambda entry: (entry.name, entry.distribution))


class PluginLoader:
    """Loads plugins one by one; a plugin that fails is recorded, and harms no other."""

    def __init__(self, entries: Iterable[PluginEntry]) -> None:
        """Take the entries as they were found; nothing is imported."""
        self._entries: dict[str, list[PluginEntry]] = {}
        self._failures: dict[str, PluginError] = {}
        for entry in entries:
            if entry.name == BUILTIN and entry.distribution != OWN:  # what is built in stays
                name = f"{BUILTIN} ({entry.distribution})"
                self._failures[name] = PluginError(
                    f"plugin {BUILTIN!r} ({entry}) claims the name of ddn's own plugin. Give its entry point another"
                )
                self._entries[name] = [entry]
            else:
                self._entries.setdefault(entry.name, []).append(entry)
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._components: dict[str, dict[str, dict[str, type[Component]]]] = {}

    @property
    def names(self) -> list[str]:
        """Names of all plugins, loaded or not."""
        return sorted(self._entries)

    def entries(self, name: str) -> list[PluginEntry]:
        """Return the entries that claim a name; more than one is a conflict."""
        return self._entries.get(name, [])

    def load(self, name: str) -> dict[str, dict[str, type[Component]]]:
        """Return a plugin's classes by family and kind, importing it on the first call.

        Raises:
            PluginError: Two distributions claim the name, or the plugin cannot be imported or registered.
        """
        if name not in self._components and name not in self._failures:
            try:
                self._components[name] = self._load(name)
            except PluginError as error:
                self._failures[name] = error
        if name in self._failures:
            failure = self._failures[name]
            raise PluginError(*failure.args) from failure.__cause__
        return self._components[name]

    def _load(self, name: str) -> dict[str, dict[str, type[Component]]]:
        entries = self._entries[name]
        if len(entries) > 1:
            claims = " and ".join(map(str, entries))
            raise PluginError(f"plugin {name!r} is claimed by {claims}. Uninstall one of them.")
        entry = entries[0]
        try:
            module = import_module(entry.module)
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin {name!r} ({entry}) failed to import: {type(error).__name__}: {error}") from error
        _check_version(entry, getattr(module, "ddn_api_version", 1))
        try:
            self._manager.register(module, name=name)
            self._manager.check_pending()
            return self._collect(name)
        except (Exception, SystemExit) as error:
            cause = error
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)
        told = str(cause) if isinstance(cause, PluginError) else f"{type(cause).__name__}: {cause}"
        if unknown := re.search(r"unknown hook '(\w+)'", str(cause)):
            told = f"{cause}.{suggestion(unknown[1], [hook for hook, _ in hookspecs.FAMILIES.values()])}"
        raise PluginError(f"plugin {name!r} ({entry}) failed to register: {told}") from cause

    def _collect(self, name: str) -> dict[str, dict[str, type[Component]]]:
        """Return the classes that a registered plugin's hooks give, by family and kind."""
        others = [plugin for other, plugin in self._manager.list_name_plugin() if other != name]
        collected: dict[str, dict[str, type[Component]]] = {}
        for family, (hook, base) in hookspecs.FAMILIES.items():
            kinds = collected.setdefault(family, {})
            for classes in self._manager.subset_hook_caller(hook, others)():
                if not isinstance(classes, list | tuple):
                    raise PluginError(f"{hook} gives {classes!r}; expected a list of classes")
                for cls in classes:
                    _check_class(name, hook, base, cls)
                    if cls.kind in kinds:
                        raise PluginError(f"{hook} gives two classes of kind {cls.kind!r}, {kinds[cls.kind]} and {cls}")
                    kinds[cls.kind] = cls
        if not any(collected.values()):
            raise PluginError(
                "it gives nothing: a hook, such as ddn_dampings, is marked with @hookimpl and returns classes"
            )
        return collected


def _check_version(entry: PluginEntry, version: object) -> None:
    """Raise unless a plugin is written for a version of the API that is offered."""
    head = f"plugin {entry.name!r} ({entry}) failed to register: "
    if not isinstance(version, int) or isinstance(version, bool):
        raise PluginError(f"{head}its ddn_api_version is {version!r}; expected an integer, such as {API_VERSION}")
    if OLDEST_API_VERSION <= version <= API_VERSION:
        return
    core = f"{OWN} {metadata.version(OWN)}"
    offered = f"{OLDEST_API_VERSION} to {API_VERSION}" if OLDEST_API_VERSION < API_VERSION else str(API_VERSION)
    advice = "a newer ddn-core" if version > API_VERSION else f"a newer {entry.distribution}, or an older ddn-core"
    raise PluginError(
        f"{head}it is written for version {version} of the plugin API, but {core} offers {offered}. Install {advice}."
    )


def _check_class(plugin: str, hook: str, base: type[Component], cls: object) -> None:
    """Raise unless a hook gave a class of its family, with a kind of its plugin."""
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise PluginError(f"{hook} gives {cls!r}; expected subclasses of {base.__name__}")
    if inspect.isabstract(cls):
        raise PluginError(f"{hook} gives {cls.__name__}, which lacks {', '.join(sorted(cls.__abstractmethods__))}")
    if not cls.__pydantic_complete__ and cls.model_rebuild(raise_errors=False) is not True:
        raise PluginError(f"{hook} gives {cls.__name__}, whose fields have types that are not defined in its module")
    prefix = "" if plugin == BUILTIN else f"{plugin}/"
    kind = cls.kind if isinstance(cls.kind, str) else ""
    name = kind.removeprefix(prefix)
    if not kind.startswith(prefix) or not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        example = f'class {cls.__name__}({base.__name__}, kind="{prefix}name")'
        raise PluginError(f"{hook} gives {cls.__name__} of kind {cls.kind!r}; expected {example}")
