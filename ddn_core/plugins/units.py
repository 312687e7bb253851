"""Units of fields: powers of the loss and of the parameters.

A field states its unit in its type: `Annotated[PositiveFloat, Unit("loss/param²")]`. JSON Schema and documentation show
the unit, and the contract checks scale the field by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

from pydantic import GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from ddn_core.errors import PluginError

SUPERSCRIPTS = str.maketrans("²³⁴⁵⁶", "23456")


@dataclass(frozen=True)
class Unit:
    """The unit of a field: products of `loss` and `param`, such as `"loss/param²"`; `"1"` for a pure number.

    Attributes:
        text: The unit as text.
    """

    text: str

    def __post_init__(self) -> None:
        """Raise a `PluginError` unless the text is a unit."""
        _ = self.powers

    @cached_property
    def powers(self) -> tuple[int, int]:
        """Exponents of the loss and of the parameters.

        Raises:
            PluginError: The text is not a product of powers of `loss` and `param`.
        """
        found = {"loss": 0, "param": 0}
        above, *below = self.text.translate(SUPERSCRIPTS).split("/")
        for sign, terms in [(1, above), *((-1, terms) for terms in below)]:
            for term in terms.split("·"):
                match = re.fullmatch(r"(loss|param)([2-6]?)|1", term.strip())
                if match is None:
                    raise PluginError(
                        f"unit {self.text!r} is invalid. Write a product of powers of loss and param, such as "
                        "'loss/param²', or '1'."
                    )
                if match[1]:
                    found[match[1]] += sign * int(match[2] or 1)
        return found["loss"], found["param"]

    def factor(self, loss: float, param: float) -> float:
        """Return the factor on a number of this unit when losses and parameters are multiplied by the given factors."""
        powers = self.powers
        return float(loss ** powers[0] * param ** powers[1])

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON Schema of the field with its unit."""
        return {**handler(schema), "unit": self.text}


def unit_of(field: FieldInfo) -> Unit | None:
    """Return the unit of a field, or `None`."""
    return next((item for item in _flat([*field.metadata, field.annotation]) if isinstance(item, Unit)), None)


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _flat(item.metadata)
        elif get_args(item):  # of an optional, a list
            yield from _flat(list(get_args(item)))
        else:
            yield item
