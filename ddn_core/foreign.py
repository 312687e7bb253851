"""Folders and files that others may have written: data, whose names, numbers and links are checked before their use.

A file is read by a schema: the error names the file, the line and the path to the mistake. Only regular files are read,
so that a pipe or a device in place of a file does not hang the reader.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from ddn_core.errors import ArgumentError
from ddn_core.text import shortened

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

ADVICE = "The file is damaged, or of another version of ddn. Restore it from a copy."
LONGEST = 60
"""Largest number of characters of a value, and of a path to it, in a message."""


def plain_name(text: str) -> str:
    """Return a name that is one component of a path.

    Raises:
        ValueError: Joined to a folder, the name could lead out of it, or is not a name of a file.
    """
    if text in ("", ".", "..") or re.search(r"[/\\\0]", text) or (os.name == "nt" and ":" in text):
        raise PydanticCustomError("plain_name", "Input should be the name of a file or folder, without a path")
    return text


def _finite_or_nan(value: float) -> float:
    return value if math.isfinite(value) else math.nan


Name = Annotated[str, AfterValidator(plain_name)]
"""The name of a file or folder: one plain component of a path."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of things, or the position of one, from 0."""
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""An integer of 64 bits."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that is not NaN or infinite."""
Measured = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    AfterValidator(_finite_or_nan),
]
"""A number that a file has as null if it was not finite; it is read as NaN."""


class Schema(Protocol[T_co]):
    """The part of `pydantic.TypeAdapter` that reads JSON."""

    def validate_json(self, data: str | bytes, /, *, strict: bool | None = None) -> T_co:
        """Return the value that a text in JSON describes."""
        ...


def content_of(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: There is no such file.
        ArgumentError: The path is not that of a regular file, or the file cannot be read.
    """
    try:
        check_regular(path)
        return path.read_bytes()
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ArgumentError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_regular(path: Path) -> None:
    """Check that a path is that of a regular file, and not of a pipe or a device, which might never end.

    Raises:
        OSError: There is no such file, or it cannot be reached.
        ArgumentError: The path is that of something else.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ArgumentError(f"{path} is not a regular file, so ddn does not read it. Put a file in its place.")


def parsed(schema: Schema[T], content: bytes, where: object, what: str, advice: str = ADVICE) -> T:
    """Return the value that a text in JSON describes.

    Args:
        schema: The schema of the value.
        content: The text.
        where: The file, and the line if the text is one of several, for messages.
        what: The thing that the text should be, with its article.
        advice: The sentences on what to do.

    Raises:
        ArgumentError: The text is not JSON, or the value does not fit the schema; the message has the first mistake.
    """
    try:
        return schema.validate_json(content, strict=True)
    except ValidationError as error:
        raise ArgumentError(f"{where}: is not {what}: {mistake(error)}. {advice}") from error


def mistake(error: ValidationError) -> str:
    """Return the first mistake in words: its path, what is wrong, and the value, all of them short enough for a line.

    Paths and values are those of a file from elsewhere, so they are quoted where they are not plain.
    """
    first, *others = error.errors(include_url=False, include_context=False)
    path = ".".join(_key(part) for part in first["loc"])
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "json_invalid":
        return f"{first['msg']}{more}"
    value = "" if first["type"] == "missing" else f", not {_value(first['input'])}"
    return f"{shortened(path, LONGEST)}: {first['msg']}{value}{more}" if path else f"{first['msg']}{value}{more}"


def check_no_links(folder: Path) -> None:
    """Check that a folder which is about to be written has no symbolic link inside.

    The folder itself may be a link, because the user named it. A link inside would have ddn write or delete elsewhere.

    Raises:
        ArgumentError: There is a link, or a folder cannot be read.
    """
    for path in _links(folder):
        raise ArgumentError(
            f"{path} is a symbolic link, and ddn does not follow links in a folder that it continues. Replace it by "
            "the files that it leads to, or remove it."
        )


def _links(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise ArgumentError(f"{error.filename}: cannot be read: {error.strerror}") from error

    for place, folders, files in os.walk(folder, onerror=fail):
        yield from (path for name in (*folders, *files) if os.path.islink(path := Path(place, name)))


def _key(part: str | int) -> str:
    return part if isinstance(part, str) and re.fullmatch(r"[\w-]+", part) else repr(part)


def _value(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    if isinstance(value, str | int | float):
        return shortened(repr(value), LONGEST)
    names = {type(None): "null", dict: "a table", list: "a list", tuple: "a list"}
    return names.get(type(value), f"a {type(value).__name__}")
