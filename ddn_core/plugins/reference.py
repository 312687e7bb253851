"""Field types that refer to a plugin by kind: `AnyCriterion`, `AnyDamping`, `AnyProblem`.

Validation looks the kind of a table `{"kind": "constant", "value": 1.0}` up in the registry. Plugins that are
registered later are therefore found, and only plugins that a table names are imported. An object of the family is valid
as it is. The name of a kind stands for a table without other fields, and a number for a constant damping. Validation
errors keep their path inside the table. From Python, a plain function is valid as a strategy too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, ValidationError, core_schema

from ddn_core.errors import PluginError
from ddn_core.plugins.callables import CallableCriterion, CallableDamping
from ddn_core.plugins.component import Component
from ddn_core.plugins.hookspecs import FAMILIES
from ddn_core.plugins.messages import error_text, located, value_text
from ddn_core.plugins.problem import Problem
from ddn_core.plugins.registry import Registry, installed_registry
from ddn_core.plugins.strategy import Criterion, Damping

REGISTRY = "ddn_registry"
"""Key of the registry in a pydantic validation context; the default is the registry of the installed plugins."""

FAMILY = "ddn_family"
"""Key that marks a field for any kind of a family in JSON Schema; `ddn_core.config.json_schema` replaces it."""

WARN = "ddn_warn"
"""Key in a pydantic validation context; if False, functions may select numerically zero directions without warning."""


@dataclass(frozen=True)
class Reference:
    """Annotation of a field that refers to a component of a family by kind."""

    family: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return a schema whose validation looks the kind up."""
        return core_schema.with_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda component: component.table()),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return a schema that names the family."""
        return {FAMILY: self.family}

    def _validate(self, value: Any, info: ValidationInfo) -> Component:
        if isinstance(value, FAMILIES[self.family][1]):
            return value
        context = info.context or {}
        if callable(value) and not isinstance(value, Component | type):
            if self.family == "criterion":
                return CallableCriterion(function=value, warn=context.get(WARN, True))
            if self.family == "damping":
                return CallableDamping(function=value)
        value = self._written_out(value)
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "reference_type", "expected a table with a kind, such as {example}", {"example": '{ kind = "..." }'}
            )
        registry: Registry = context.get(REGISTRY) or installed_registry()
        kind = value.get("kind")
        if not isinstance(kind, str):
            mistake = "the kind is missing" if kind is None else f"the kind is {kind!r}, which is not a name"
            raise located(f"{mistake}; write the name of a {self.family}", "kind", value)
        try:
            cls = registry.lookup(self.family, kind)
        except PluginError as error:
            raise located(str(error), "kind", kind) from error
        fields = {name: item for name, item in value.items() if name != "kind"}
        try:
            made = cls.model_validate(fields, context=info.context)
            if isinstance(made, cls):
                return made
            raise TypeError(f"a validator of {cls.__qualname__} returned {value_text(made)}; it must return self")
        except (ValidationError, RecursionError):
            raise
        except (Exception, SystemExit) as error:  # raised by a validator of the plugin
            raise located(f"{kind!r} failed to validate: {error_text(error)}", "kind", kind) from error

    def _written_out(self, value: Any) -> Any:
        """Return the table that a short form stands for: the name of a kind, or a number as a damping."""
        if isinstance(value, str):
            return {"kind": value}
        if self.family == "damping" and isinstance(value, int | float) and not isinstance(value, bool):
            return {"kind": "constant", "value": value}
        return value


AnyCriterion = Annotated[Criterion, Reference("criterion")]
"""Field type for a criterion of any installed plugin."""

AnyDamping = Annotated[Damping, Reference("damping")]
"""Field type for a damping of any installed plugin."""

AnyProblem = Annotated[Problem, Reference("problem")]
"""Field type for a problem of any installed plugin."""
