"""Field types that refer to a plugin by kind: `AnyCriterion`, `AnyDamping`, `AnyProblem`.

A table `{"kind": "constant", "value": 1.0}` is looked up in the registry when it is validated, so that a plugin that is
registered later is found, and no plugin is imported that no table names. An object of the family is taken as it is.
Validation errors keep their path inside the table. From Python, a plain function stands for a strategy.
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
from ddn_core.plugins.messages import located
from ddn_core.plugins.problem import Problem
from ddn_core.plugins.registry import Registry, installed_registry
from ddn_core.plugins.strategy import Criterion, Damping

REGISTRY = "ddn_registry"
"""Key of the registry in a pydantic validation context; without one, that of the installed plugins is used."""

FAMILY = "ddn_family"
"""Key in the JSON Schema of a field that takes all kinds of a family, which `ddn_core.config.json_schema` fills in."""

WARN = "ddn_warn"
"""Key in a pydantic validation context: whether functions that select numerically zero directions cause a warning."""


@dataclass(frozen=True)
class Reference:
    """Annotation that makes a field refer to a component of a family by kind."""

    family: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return a schema that looks the kind up at validation."""
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
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "reference_type", "expected a table with a kind, such as {example}", {"example": '{ kind = "..." }'}
            )
        registry: Registry = context.get(REGISTRY) or installed_registry()
        kind = value.get("kind")
        if not isinstance(kind, str):
            problem = "the kind is missing" if kind is None else f"the kind is {kind!r}, which is no name"
            raise located(f"{problem}: name a {self.family}", "kind", value)
        try:
            cls = registry.lookup(self.family, kind)
        except PluginError as error:
            raise located(str(error), "kind", kind) from error
        fields = {name: item for name, item in value.items() if name != "kind"}
        try:
            made = cls.model_validate(fields, context=info.context)
            if isinstance(made, cls):
                return made
            raise TypeError(f"a validator of {cls.__qualname__} returned {made!r}; it has to return self")
        except (ValidationError, RecursionError):
            raise
        except Exception as error:  # of a validator that the author wrote
            raise located(f"{kind!r} failed to validate: {type(error).__name__}: {error}", "kind", kind) from error


AnyCriterion = Annotated[Criterion, Reference("criterion")]
"""Field type for a criterion of any installed plugin."""

AnyDamping = Annotated[Damping, Reference("damping")]
"""Field type for a damping of any installed plugin."""

AnyProblem = Annotated[Problem, Reference("problem")]
"""Field type for a problem of any installed plugin."""
