"""The space that a sweep searches: choices and ranges of config values, and the combinations of them.

Values are kept as TOML literals, the form that `--set` takes.
"""

from __future__ import annotations

import json
import math
import random
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ddn_core.errors import ArgumentError

MOST = 10_000
"""Largest number of combinations in a sweep; a larger one is most likely a typing error."""

_LARGEST_INTEGER = 2**63 - 1
_DRAWS_FOR_EACH = 1000


@dataclass(frozen=True)
class Choices:
    """A list of values.

    Attributes:
        path: Path into the config.
        literals: The values.
    """

    path: str
    literals: tuple[str, ...]

    @classmethod
    def of_text(cls, text: str) -> Choices:
        """Return the choices that `PATH=V1,V2,...` lists.

        Raises:
            ArgumentError: The text has another form.
        """
        path, values = _path_and_rest("--grid", text, "groups.0.lr=0.5,1.0")
        try:
            parsed = tomllib.loads(f"values = [{values}\n]")
            if set(parsed) != {"values"}:
                raise ValueError("more than a list")
        except (ValueError, RecursionError) as error:
            raise ArgumentError(
                f"--grid {path}: {values!r} is not a list of TOML literals separated by commas. "
                "Write numbers as they are and text in quotes: "
                '--grid \'training.dtype="float32","float64"\'.'
            ) from error
        literals = [literal(value) for value in parsed["values"]]
        if not literals:
            raise ArgumentError(f"--grid {path}: there is no value after the '='")
        for one in literals:
            if literals.count(one) > 1:
                raise ArgumentError(f"--grid {path}: {one} is listed twice")
        return cls(path, tuple(literals))

    @property
    def size(self) -> float:
        """Number of values."""
        return len(self.literals)

    def at(self, place: float) -> str:
        """Return the value at a place in [0, 1)."""
        return self.literals[int(place * len(self.literals))]

    def __str__(self) -> str:
        return f"{self.path}={','.join(self.literals)}"


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included. If both ends are integers, only integers are drawn.

    Attributes:
        path: Path into the config.
        low: The lower end.
        high: The upper end.
        log: Whether draws are uniform in the logarithm instead of the number.
    """

    path: str
    low: float
    high: float
    log: bool

    @classmethod
    def of_text(cls, text: str) -> Range:
        """Return the range that `PATH=LOW..HIGH` or `PATH=log:LOW..HIGH` states.

        Raises:
            ArgumentError: The text has another form, or no number lies between the ends.
        """
        path, rest = _path_and_rest("--random", text, "groups.0.lr=log:0.01..1.0")
        ends = rest.strip().removeprefix("log:")
        log = ends != rest.strip()
        low, dots, high = ends.partition("..")
        if not dots:
            raise ArgumentError(f"--random {path}: {rest!r} is not a range. Write LOW..HIGH or log:LOW..HIGH.")
        made = cls(path, _number(path, low), _number(path, high), log)
        if not made.low < made.high:
            raise ArgumentError(f"--random {path}: {made.low} is not below {made.high}")
        if log and made.low <= 0:
            raise ArgumentError(f"--random {path}: {made.low} has no logarithm; the lower end must be positive")
        return made

    @property
    def integers(self) -> bool:
        """True if only integers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> float:
        """Number of values; infinite if they are not integers."""
        return self.high - self.low + 1 if self.integers else math.inf

    def at(self, place: float) -> str:
        """Return the number at a place in [0, 1)."""
        margin = 0.5 if self.integers else 0.0  # both ends are then drawn as often as the integers between them
        low, high = self.low - margin, self.high + margin
        if self.log:
            value = math.exp((1 - place) * math.log(low) + place * math.log(high))
        else:
            value = (1 - place) * low + place * high
        rounded = round(value) if self.integers else value
        return literal(min(max(rounded, self.low), self.high))

    def __str__(self) -> str:
        return f"{self.path}={'log:' if self.log else ''}{literal(self.low)}..{literal(self.high)}"


Dimension = Choices | Range


def dimensions(grid: Sequence[str], ranges: Sequence[str]) -> list[Dimension]:
    """Return the dimensions of the search, from the texts of `--grid` and `--random`.

    Raises:
        ArgumentError: A text is wrong, or two name the same path.
    """
    found: list[Dimension] = [*map(Choices.of_text, grid), *map(Range.of_text, ranges)]
    paths = [dimension.path for dimension in found]
    for path in paths:
        if paths.count(path) > 1:
            raise ArgumentError(f"{path} is given twice; list all its values in one option")
    return found


def combinations(space: Sequence[Dimension], trials: int | None, seed: int) -> list[tuple[str, ...]]:
    """Return combinations, each a tuple of assignments `path=literal`.

    Args:
        space: The dimensions of the search.
        trials: Number of distinct combinations to draw; `None` for all of them.
        seed: Seed of the draws.

    Raises:
        ArgumentError: There are too many or too few combinations, or a range comes without a number of trials.
    """
    size = math.prod(dimension.size for dimension in space)
    if trials is None:
        if any(isinstance(dimension, Range) for dimension in space):
            raise ArgumentError("--random draws from a range: give the number of draws with --trials N")
        if size > MOST:
            raise ArgumentError(f"--grid: {size} combinations are more than {MOST}; draw some with --trials N")
        listed = [dimension.literals for dimension in space if isinstance(dimension, Choices)]
        chosen = list(product(*listed))
    else:
        if trials > size:
            raise ArgumentError(f"--trials {trials}: there are only {size} combinations")
        if trials > MOST:
            raise ArgumentError(f"--trials {trials}: more than {MOST} are too many for one sweep")
        chosen = _draw(space, trials, seed)
    paths = [dimension.path for dimension in space]
    return [tuple(f"{path}={one}" for path, one in zip(paths, literals, strict=True)) for literals in chosen]


def literal(value: Any) -> str:
    """Return a value as a TOML literal on one line that reads back as the same value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {literal(item)}' for key, item in value.items())}}}"
    return str(value.isoformat())  # dates and times, the remaining values of TOML


def plain(text: str) -> str:
    """Return a literal for a reader: text without its quotes, anything else unchanged."""
    return str(tomllib.loads(f"value = {text}")["value"]) if text.startswith('"') else text


def is_assignment(text: str) -> bool:
    """Return whether a text is an assignment `path=literal` of one value."""
    path, _, one = text.partition("=")
    try:
        return bool(path) and set(tomllib.loads(f"value = {one}\n")) == {"value"}
    except (ValueError, RecursionError):
        return False


def _draw(space: Sequence[Dimension], trials: int, seed: int) -> list[tuple[str, ...]]:
    chosen: dict[tuple[str, ...], None] = {}
    draws = _draws(space, seed)
    for _ in range(_DRAWS_FOR_EACH * trials):
        chosen.setdefault(next(draws))
        if len(chosen) == trials:
            return list(chosen)
    raise ArgumentError(
        f"--trials {trials}: only {len(chosen)} distinct combinations were drawn; the ranges are narrow"
    )


def _draws(space: Sequence[Dimension], seed: int) -> Iterator[tuple[str, ...]]:
    generator = random.Random(seed)  # only `random()` gives the same numbers in every version of Python
    while True:
        yield tuple(dimension.at(generator.random()) for dimension in space)


def _path_and_rest(option: str, text: str, example: str) -> tuple[str, str]:
    path, equals, rest = text.partition("=")
    if not equals or not all(path.strip().split(".")):
        raise ArgumentError(f"{option}: {text!r} names no path. Write path=values, such as {example}.")
    return path.strip(), rest.strip()


def _number(path: str, text: str) -> float:
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except ValueError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArgumentError(f"--random {path}: {text.strip()!r} is not a finite number")
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise ArgumentError(f"--random {path}: {text.strip()} does not fit into 64 bits")
    return value


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("-", "_").isidentifier() else literal(key)
