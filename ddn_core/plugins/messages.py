"""Validation errors as lines for the user: the path, the mistake, and the nearest valid name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from enum import Enum
from typing import Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from ddn_core.text import shortened

BOUNDS_AND_CHOICES = frozenset(
    {
        *("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"),
        *("literal_error", "string_pattern_mismatch"),
    }
)
"""Types of pydantic's errors whose messages lack the value that the user wrote."""


class TableModel(BaseModel):
    """A frozen model of a config table, which rejects unknown fields and suggests the nearest known one.

    Values are not converted: a text is never read as a number, nor a number as true or false.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_fields(cls, value: Any, handler: Callable[[Any], Self]) -> Self:
        try:
            made = handler(value)
        except ValidationError as error:
            lines = _without_union_tags(error.errors(include_url=False), value)
            raise ValidationError.from_exception_data(
                cls.__name__, [_with_suggestion(line, _names(cls)) for line in lines]
            ) from None
        if isinstance(value, dict):
            fields = _fields_by_key(cls)
            lines = [
                InitErrorDetails(type=_verbatim("converted", message), loc=path, input=written)
                for key, item in value.items()
                if key in fields
                for path, written, message in _conversions((key,), item, getattr(made, fields[key]))
            ]
            if lines:
                raise ValidationError.from_exception_data(cls.__name__, lines)
        return made


def _conversions(
    path: tuple[str | int, ...], written: Any, made: Any
) -> Iterator[tuple[tuple[str | int, ...], Any, str]]:
    """Yield path, value and message of each scalar that pydantic converted to another type."""
    if isinstance(written, list | tuple) and isinstance(made, list | tuple):
        for index, (item, result) in enumerate(zip(written, made, strict=False)):
            yield from _conversions((*path, index), item, result)
    elif isinstance(written, bool) != isinstance(made, bool) and isinstance(written, bool | int | float | str):
        wanted = "true or false" if isinstance(made, bool) else "a number" if isinstance(made, int | float) else None
        if wanted is not None:
            yield path, written, f"expected {wanted}, not {json.dumps(written)}"
    elif isinstance(written, str) and isinstance(made, int | float) and not isinstance(made, Enum):
        yield path, written, f"expected a number, not the text {json.dumps(written, ensure_ascii=False)}"


def _without_union_tags(lines: Sequence[Any], table: Any) -> list[Any]:
    """Return the errors of a table with the paths of the file, and a single error for a field of several types.

    pydantic reports one error for each type that the field accepts, and adds the type to the path.
    """
    kept: list[Any] = []
    seen: dict[str | int, list[Any]] = {}
    for line in lines:
        name, *below = line["loc"] or ("",)
        inside = table.get(name) if isinstance(table, dict) else None
        if isinstance(inside, dict) and len(below) > 1 and below[0] not in inside and below[0] in inside.values():
            line = {**line, "loc": (name, *below[1:])}  # without the tag of a discriminated union, one of the values
        elif below and isinstance(below[0], str) and not isinstance(inside, dict | list | tuple):
            line = {**line, "loc": (name,)}
            seen.setdefault(name, []).append(line)
        kept.append(line)
    for alternatives in seen.values():
        text = isinstance(alternatives[0]["input"], str)
        relevant = [line for line in alternatives if (line["type"] == "literal_error") == text] or alternatives
        first = relevant[0]
        if first["type"] == "literal_error" and len(alternatives) > len(relevant):
            first = {**first, "msg": f"{first['msg']}, or a number"}
        kept = [
            first if line is relevant[0] else line for line in kept if line not in alternatives or line is relevant[0]
        ]
    return kept


def _names(model: type[BaseModel]) -> list[str]:
    """Return the names of a model's fields in a config file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _fields_by_key(model: type[BaseModel]) -> dict[str, str]:
    """Return the name of the field that each key of a table sets; a field with aliases has several keys."""
    found = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        keys = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
        found.update({key: name for key in keys if isinstance(key, str)})
    return found


LONGEST_TEXT = 1000
"""Largest number of characters of a text from a plugin in a message."""

LONGEST_VALUE = 200
"""Largest number of characters of a value in a message."""


def error_text(error: BaseException) -> str:
    """Return type and message of an exception, such as `KeyError: 'lost'`, even if its message cannot be computed."""
    name = type(error).__name__
    try:
        return shortened(f"{name}: {error}", LONGEST_TEXT)
    except KeyboardInterrupt:
        raise
    except BaseException as failure:  # it comes from a plugin, as the exception does
        return f"{name} (its message cannot be computed: {type(failure).__name__})"


def value_text(value: object, longest: int = LONGEST_VALUE) -> str:
    """Return the beginning of the `repr` of a value, even if computing it raises."""
    try:
        return shortened(repr(value), longest)
    except KeyboardInterrupt:
        raise
    except BaseException as failure:
        return f"a value of type {type(value).__name__} (its repr cannot be computed: {type(failure).__name__})"


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'constant'?"` with the nearest known name, or an empty text if none is near."""
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def error_lines(error: ValidationError) -> list[str]:
    """Return a line for each error, such as `groups.0.lr: input should be greater than 0, not -1`."""
    lines = []
    for line in error.errors(include_url=False):
        message = line["msg"].removeprefix("Value error, ")
        path = path_text(line["loc"])
        text = message[:1].lower() + message[1:] if not message.startswith("'") else message
        lines.append(f"{path}: {text}" if path else text)
    return lines


def path_text(path: Iterable[str | int]) -> str:
    """Return a path into a config in TOML notation."""
    return ".".join(map(_key, path))


def _key(part: str | int) -> str:
    """Return one part of a path in TOML notation: in quotes unless it is a bare key."""
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else json.dumps(text, ensure_ascii=False)


def located(message: str, location: str, value: Any) -> ValidationError:
    """Return a validation error with the given message at a field of the table that is being validated."""
    details = InitErrorDetails(type=_verbatim("ddn", message), loc=(location,), input=value)
    return ValidationError.from_exception_data("table", [details])


def _with_suggestion(line: Any, known: Iterable[str]) -> InitErrorDetails:
    message = line["msg"]
    location = line["loc"]
    if line["type"] in BOUNDS_AND_CHOICES and "message" not in line.get("ctx", {}):  # not one of our own messages
        message += _contrast(line["input"])
    if line["type"] == "extra_forbidden" and len(location) == 1:
        message = f"unknown field.{suggestion(str(location[0]), known)}"
    if "discriminator" in line.get("ctx", {}) and line["type"] == "union_tag_not_found":
        message = f"the {line['ctx']['discriminator'].strip(chr(39))} is missing"
    if "expected_tags" in line.get("ctx", {}):
        tags = line["ctx"]["expected_tags"]
        near = suggestion(line["ctx"]["tag"], tags.replace("'", "").split(", "))
        message = f"{line['ctx']['tag']!r} is not among {tags}.{near}"
    return InitErrorDetails(type=_verbatim(line["type"], message), loc=location, input=line["input"])


def _contrast(value: Any) -> str:
    """Return `, not -1` for a scalar value, or an empty text for other values."""
    if isinstance(value, str):
        return f", not {value!r}"
    is_short = isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64)
    return f", not {json.dumps(value)}" if is_short else ""


def _verbatim(kind: str, message: str) -> PydanticCustomError:
    """Return an error with exactly this message, in which pydantic does not interpret braces."""
    return PydanticCustomError(kind, "{message}", {"message": message})
