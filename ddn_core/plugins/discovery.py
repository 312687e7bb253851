"""Discovery of plugins from entry points: by metadata alone; each plugin is imported by itself, when first needed.

pluggy's own `load_setuptools_entrypoints` imports all plugins or none, and does not report two distributions that use
the same name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module, metadata
from types import ModuleType

import pluggy

from ddn_core.errors import PluginError, PluginLoadError
from ddn_core.plugins import hookspecs
from ddn_core.plugins.component import Component
from ddn_core.plugins.containment import contained
from ddn_core.plugins.messages import LONGEST_TEXT, error_text, suggestion, value_text
from ddn_core.text import shortened

BUILTIN = "builtin"
"""Name of the entry point of the built-in plugin, whose kinds have no prefix."""

CORE_DISTRIBUTION = "ddn-core"
"""Name of the distribution that this package belongs to."""

API_VERSION = 1
"""Version of the interface `ddn_core.api`; it grows with each change that plugins have to follow."""

OLDEST_API_VERSION = 1
"""Oldest version of the interface that plugins may still be written for."""


@dataclass(frozen=True)
class PluginEntry:
    """An entry point of group `ddn`, read from the metadata of an installed distribution.

    Attributes:
        name: Name of the plugin, which is the prefix of its kinds.
        module: Name of the module that implements the hooks.
        distribution: Name of the distribution that contains the plugin.
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
    """Return the entry point of every installed plugin, ordered by name, without importing any."""
    found = {
        PluginEntry(entry.name, entry.value, *_name_and_version(entry.dist))
        for entry in metadata.entry_points(group=hookspecs.PROJECT)
        if entry.dist is not None
    }
    return sorted(found, key=lambda entry: (entry.name, entry.distribution))


def _name_and_version(distribution: metadata.Distribution) -> tuple[str, str]:
    """Return name and version of a distribution, also if its metadata are damaged."""
    try:
        return str(distribution.name or "unnamed"), str(distribution.version or "unknown")
    except Exception:
        return "unnamed", "unknown"


class PluginLoader:
    """Loads plugins one by one; a plugin that cannot be loaded affects no other."""

    def __init__(self, entries: Iterable[PluginEntry]) -> None:
        """Set the loader up with entry points, without importing any."""
        self._entries: dict[str, list[PluginEntry]] = {}
        self._failures: dict[str, PluginLoadError] = {}
        for entry in entries:
            if entry.name == BUILTIN and entry.distribution != CORE_DISTRIBUTION:  # nobody replaces the built-in plugin
                name = f"{BUILTIN} ({entry.distribution})"
                self._failures[name] = PluginLoadError(
                    f"plugin {BUILTIN!r} ({entry})",
                    "uses the name of ddn's built-in plugin. Give its entry point another name.",
                )
                self._entries[name] = [entry]
            else:
                self._entries.setdefault(entry.name, []).append(entry)
        self._components: dict[str, dict[str, dict[str, type[Component]]]] = {}

    @property
    def names(self) -> list[str]:
        """Names of all plugins, loaded or not."""
        return sorted(self._entries)

    def entries(self, name: str) -> list[PluginEntry]:
        """Return the entry points with a name; more than one is a conflict."""
        return self._entries.get(name, [])

    def load(self, name: str) -> dict[str, dict[str, type[Component]]]:
        """Return a plugin's classes by family and kind, importing it on the first call.

        Raises:
            PluginLoadError: Two distributions use the name, or the plugin cannot be imported or registered.
        """
        if name not in self._components and name not in self._failures:
            try:
                self._components[name] = self._load(name)
            except PluginLoadError as error:
                self._failures[name] = error
        if name in self._failures:
            failure = self._failures[name]
            raise PluginLoadError(failure.plugin, failure.reason) from failure.__cause__
        return self._components[name]

    def _load(self, name: str) -> dict[str, dict[str, type[Component]]]:
        entries = self._entries[name]
        if len(entries) > 1:
            claims = " and ".join(map(str, entries))
            raise PluginLoadError(f"plugin {name!r}", f"is claimed by {claims}. Uninstall one of them.")
        entry = entries[0]
        plugin = f"plugin {name!r} ({entry})"
        try:
            with contained():
                module = import_module(entry.module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise PluginLoadError(plugin, f"failed to import: {error_text(error)}") from error
        try:
            with contained():
                _check_version(entry, getattr(module, "ddn_api_version", 1))
                return _collect(name, module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            reason = shortened(str(error), LONGEST_TEXT) if isinstance(error, PluginError) else error_text(error)
            raise PluginLoadError(plugin, f"failed to register: {reason}") from error


def _collect(name: str, module: ModuleType) -> dict[str, dict[str, type[Component]]]:
    """Return the classes that the hooks of a plugin return, by family and kind."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)  # of its own, so that a plugin reaches no other
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        callers = manager.get_hookcallers(module) or []
        unknown = next(caller.name for caller in callers if not caller.has_spec())
        known = [hook for hook, _ in hookspecs.FAMILIES.values()]
        raise PluginError(f"unknown hook {unknown!r}.{suggestion(unknown, known)}") from error
    collected: dict[str, dict[str, type[Component]]] = {}
    for family, (hook, base) in hookspecs.FAMILIES.items():
        kinds = collected.setdefault(family, {})
        for classes in getattr(manager.hook, hook)():
            if not isinstance(classes, list | tuple):
                raise PluginError(f"{hook} returned {value_text(classes)}; expected a list of classes.")
            for cls in classes:
                _check_class(name, hook, base, cls)
                if cls.kind in kinds:
                    twins = f"{value_text(kinds[cls.kind])}, {value_text(cls)}"
                    raise PluginError(f"{hook} returned two classes of kind {cls.kind!r}: {twins}. Rename one.")
                kinds[cls.kind] = cls
    if not any(collected.values()):
        raise PluginError(
            "it brings no classes. Mark a hook, such as ddn_dampings, with @hookimpl, and return a list of classes."
        )
    return collected


def _check_version(entry: PluginEntry, version: object) -> None:
    """Raise a `PluginError` unless a plugin is written for a supported version of the API."""
    if type(version) is not int:  # no subclass either, which may compare as it likes
        raise PluginError(f"its ddn_api_version is {value_text(version)}; expected an integer, such as {API_VERSION}.")
    if OLDEST_API_VERSION <= version <= API_VERSION:
        return
    core = f"{CORE_DISTRIBUTION} {metadata.version(CORE_DISTRIBUTION)}"
    offered = f"{OLDEST_API_VERSION} to {API_VERSION}" if OLDEST_API_VERSION < API_VERSION else str(API_VERSION)
    advice = "a newer ddn-core" if version > API_VERSION else f"a newer {entry.distribution}, or an older ddn-core"
    raise PluginError(
        f"it is written for version {value_text(version)} of the plugin API, but {core} offers {offered}. Install "
        f"{advice}."
    )


def _check_class(plugin: str, hook: str, base: type[Component], cls: object) -> None:
    """Raise a `PluginError` unless a hook returned a class of its family whose kind belongs to the plugin."""
    if not isinstance(cls, type) or not issubclass(cls, base):
        raise PluginError(f"{hook} returned {value_text(cls)}; expected subclasses of {base.__name__}.")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(cls.__abstractmethods__))
        raise PluginError(f"{hook} returned {cls.__name__}, which lacks the method {missing}. Define it in the class.")
    if not isinstance(cls.__doc__, str | None):
        raise PluginError(
            f"{hook} returned {cls.__name__}, whose __doc__ is {value_text(cls.__doc__)}; expected a text."
        )
    if not cls.__pydantic_complete__ and cls.model_rebuild(raise_errors=False) is not True:
        raise PluginError(
            f"{hook} returned {cls.__name__}, whose fields have types that its module does not define. Import them "
            "outside of `if TYPE_CHECKING`."
        )
    prefix = "" if plugin == BUILTIN else f"{plugin}/"
    kind = cls.kind if isinstance(cls.kind, str) else ""
    name = kind.removeprefix(prefix)
    if not kind.startswith(prefix) or not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,99}", name):
        example = f'class {cls.__name__}({base.__name__}, kind="{prefix}name")'
        raise PluginError(f"{hook} returned {cls.__name__} of kind {value_text(cls.kind)}; expected {example}.")
