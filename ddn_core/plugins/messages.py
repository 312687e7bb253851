"""Validation errors as a user reads them: path, what is wrong, the nearest valid name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


class TableModel(BaseModel):
    """A frozen model of a config table, that takes no unknown field, and suggests the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="wrap")
    @classmethod
    def _suggest_fields(cls, value: Any, handler: Callable[[Any], Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, [_with_suggestion(line, cls.model_fields) for line in error.errors(include_url=False)]
            ) from None


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'constant'?"` for the nearest known name, or nothing if none is near."""
    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def error_lines(error: ValidationError) -> list[str]:
    """Return a line for each error: `groups.0.damping.value: input should be greater than 0`."""
    lines = []
    for line in error.errors(include_url=False):
        message = line["msg"]
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
    return InitErrorDetails(type=_verbatim(line["type"], message), loc=location, input=line["input"])


def _verbatim(kind: str, message: str) -> PydanticCustomError:
    """Return an error whose message is taken as it is: braces in it are text."""
    return PydanticCustomError(kind, "{message}", {"message": message})
