"""Base class of criteria, dampings and problems: kind, fields and config table."""

from __future__ import annotations

import inspect
from functools import lru_cache
from importlib import metadata
from typing import Any, ClassVar

from ddn_core.errors import PluginError
from ddn_core.plugins.messages import TableModel


class Component(TableModel):
    """A frozen pydantic model with a kind: the name under which a config selects it.

    The class statement sets the kind: `class SpectralFloor(Damping, kind="acme/spectral-floor")`. A class without a
    kind works everywhere except in a config.
    """

    family: ClassVar[str]
    """`"criterion"`, `"damping"` or `"problem"`."""

    kind: ClassVar[str | None] = None
    """Name in a config; that of a third party's class is `<entry point>/<name>`."""

    def __init_subclass__(cls, kind: str | None = None, **kwargs: Any) -> None:
        """Set the kind from the class statement; a subclass does not inherit it."""
        super().__init_subclass__(**kwargs)
        cls.kind = kind

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Raise a `PluginError` if a field has a name that the base classes use."""
        super().__pydantic_init_subclass__()
        bases = [base for base in cls.__mro__[1:] if base.__module__.startswith("ddn_core.plugins.")]
        if taken := [name for name in cls.model_fields if any(name in vars(base) for base in bases)]:
            raise PluginError(
                f"{cls.__qualname__} has a field named {taken[0]!r}, but its base class uses this name. Rename it."
            )

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the class's docstring."""
        return (inspect.getdoc(cls) or "").partition("\n")[0]

    def label(self) -> str:
        """Return family, name and origin for messages, such as `damping 'acme/floor' (ddn-acme 1.2)`."""
        return f"{self.family} {type(self).kind or type(self).__name__!r} ({origin(type(self))})"

    def __str__(self) -> str:
        """Return kind and given fields on one line, such as `maximum(of=[constant(value=1.0), relative])`."""
        given = [name for name in type(self).model_fields if name in self.model_fields_set]
        fields = ", ".join(f"{name}={_short(getattr(self, name))}" for name in given)
        kind = type(self).kind or type(self).__name__
        return f"{kind}({fields})" if fields else kind

    def table(self) -> dict[str, Any]:
        """Return the config table of an equal object: the kind and all fields, with nested components as tables."""
        return {"kind": type(self).kind, **self.model_dump(mode="json", by_alias=True)}


def _short(value: Any) -> str:
    """Return a value of a field on one line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    return str(value) if isinstance(value, Component) else repr(value)


@lru_cache(maxsize=256)
def origin(of: type) -> str:
    """Return the distribution and version that a class comes from, or its module if there is no distribution."""
    package = of.__module__.partition(".")[0]
    for entry in metadata.entry_points(group="ddn"):  # knows editable installations too
        if entry.value.partition(".")[0] == package and entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version}"
    for name in metadata.packages_distributions().get(package, []):
        return f"{name} {metadata.version(name)}"
    return f"module {of.__module__}"
