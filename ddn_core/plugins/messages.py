"""Validation errors as a user reads them: path, what is wrong, the nearest valid name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from enum import Enum
from typing import Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class TableModel(BaseModel):
    """A frozen model of a config table, that takes no unknown field, and suggests the nearest known one.

    Text is no number and a number is no truth value: what a file says is taken as it stands.
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
                InitErrorDetails(type=_verbatim("coerced", message), loc=path, input=given)
                for key, item in value.items()
                if key in fields
                for path, given, message in _coerced((key,), item, getattr(made, fields[key]))
            ]
            if lines:
                raise ValidationError.from_exception_data(cls.__name__, lines)
        return made


def _coerced(path: tuple[str | int, ...], given: Any, made: Any) -> Iterator[tuple[tuple[str | int, ...], Any, str]]:
    """Yield path, value and message of each scalar that pydantic took for one of another type."""
    if isinstance(given, list | tuple) and isinstance(made, list | tuple):
        for index, (item, result) in enumerate(zip(given, made, strict=False)):
            yield from _coerced((*path, index), item, result)
    elif isinstance(given, bool) != isinstance(made, bool) and isinstance(given, bool | int | float | str):
        wanted = "true or false" if isinstance(made, bool) else "a number" if isinstance(made, int | float) else None
        if wanted is not None:
            yield path, given, f"expected {wanted}, not {json.dumps(given)}"
    elif isinstance(given, str) and isinstance(made, int | float) and not isinstance(made, Enum):
        yield path, given, f"expected a number, not the text {json.dumps(given, ensure_ascii=False)}"


def _without_union_tags(lines: Sequence[Any], given: Any) -> list[Any]:
    """Return the errors of a table with paths as they are in the file, and one for a field that takes several types.

    pydantic has an error for each type that a field could have, and puts the type into the path.
    """
    kept: list[Any] = []
    seen: dict[str | int, list[Any]] = {}
    for line in lines:
        name, *rest = line["loc"] or ("",)
        inside = given.get(name) if isinstance(given, dict) else None
        if isinstance(inside, dict) and len(rest) > 1 and rest[0] not in inside and rest[0] in inside.values():
            line = {**line, "loc": (name, *rest[1:])}  # the tag of a table that is told apart by one of its values
        elif rest and isinstance(rest[0], str) and not isinstance(inside, dict | list | tuple):
            line = {**line, "loc": (name,)}
            seen.setdefault(name, []).append(line)
        kept.append(line)
    for alternatives in seen.values():
        text = isinstance(alternatives[0]["input"], str)
        told = [line for line in alternatives if (line["type"] == "literal_error") == text] or alternatives
        first = told[0]
        if first["type"] == "literal_error" and len(alternatives) > len(told):
            first = {**first, "msg": f"{first['msg']}, or a number"}
        kept = [first if line is told[0] else line for line in kept if line not in alternatives or line is told[0]]
    return kept


def _names(model: type[BaseModel]) -> list[str]:
    """Return the names of a model's fields as a file has them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _fields_by_key(model: type[BaseModel]) -> dict[str, str]:
    """Return the name of the field that each key of a table sets; a field with aliases has several keys."""
    found = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        keys = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
        found.update({key: name for key in keys if isinstance(key, str)})
    return found


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'constant'?"` for the nearest known name, or nothing if none is near."""
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def error_lines(error: ValidationError) -> list[str]:
    """Return a line for each error: `groups.0.damping.value: input should be greater than 0`."""
    lines = []
    for line in error.errors(include_url=False):
        message = line["msg"].removeprefix("Value error, ")
        path = ".".join(_key(part) for part in line["loc"])
        text = message[:1].lower() + message[1:] if not message.startswith("'") else message
        lines.append(f"{path}: {text}" if path else text)
    return lines


def _key(part: str | int) -> str:
    """Return a part of a path as TOML writes it: quoted unless it is a bare key."""
    text = str(part)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else json.dumps(text, ensure_ascii=False)


def located(message: str, location: str, given: Any) -> ValidationError:
    """Return a validation error with a message of our own at a field of the table that is being validated."""
    details = InitErrorDetails(type=_verbatim("ddn", message), loc=(location,), input=given)
    return ValidationError.from_exception_data("table", [details])


def _with_suggestion(line: Any, known: Iterable[str]) -> InitErrorDetails:
    message = line["msg"]
    location = line["loc"]
    if line["type"] == "extra_forbidden" and len(location) == 1:
        message = f"unknown field.{suggestion(str(location[0]), known)}"
    if "discriminator" in line.get("ctx", {}) and line["type"] == "union_tag_not_found":
        message = f"the {line['ctx']['discriminator'].strip(chr(39))} is missing"
    if "expected_tags" in line.get("ctx", {}):
        tags = line["ctx"]["expected_tags"]
        near = suggestion(line["ctx"]["tag"], tags.replace("'", "").split(", "))
        message = f"{line['ctx']['tag']!r} is not among {tags}.{near}"
    return InitErrorDetails(type=_verbatim(line["type"], message), loc=location, input=line["input"])


def _verbatim(kind: str, message: str) -> PydanticCustomError:
    """Return an error whose message is taken as it is: braces in it are text."""
    return PydanticCustomError(kind, "{message}", {"message": message})
