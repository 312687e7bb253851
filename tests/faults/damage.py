"""Damage to files: what a bad disk, another program or a hostile sender may have put in place of a value."""

from __future__ import annotations

import copy
import json
import math
from functools import partial

import torch
from torch import Tensor

VALUES = {
    "a word": "word",
    "null": None,
    "true": True,
    "a negative number": -1,
    "a fraction": 1.5,
    "a number of 100 bits": 2**100,
    "the largest number": 1.7e308,
    "NaN": math.nan,
    "infinity": math.inf,
    "an empty list": [],
    "an empty table": {},
    "a list of words": ["word", "word"],
    "a deep list": json.loads("[" * 150 + "]" * 150),
    "a long word": "word " * 100,
    "markup": "[red]</script>\x1b[31m",
}
"""Values in place of a value in a table."""

CONTENTS = {
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "a word": b'"word"',
    "a number": b"5",
    "a number of thousands of digits": b"9" * 6000,
    "no JSON": b"{oops",
    "an empty table": b"{}",
    "a list of 100000 levels": b"[" * 100_000,
    "a table of 100000 levels": b'{"a":' * 100_000,
    "zeros": b"\0" * 5000,
    "UTF-16": '{"event": "step"}'.encode("utf-16"),
    "latin-1": '{"naïve": 1}'.encode("latin-1"),
    "half of a surrogate": b'{"event": "\\ud800"}',
}
"""Contents in place of the content of a file."""


def damaged_contents(content: bytes) -> dict[str, bytes]:
    """Return damaged contents of a file by a name of the damage."""
    middle = len(content) // 2
    flipped = bytes([*content[:middle], content[middle] ^ 0x55, *content[middle + 1 :]])
    return {**CONTENTS, "half": content[:middle], "all but the end": content[:-9], "a flipped byte": flipped}


def paths_in(value, path=()):
    """Yield the path to every value within tables and lists, of long lists only to the first two values."""
    if path:
        yield path
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list | tuple) else ()
    )
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def copied(table, path):
    """Return a copy of a table, and the table or list in it that has the value at a path; tuples become lists."""
    made = copy.deepcopy(table)
    inner = made
    for key in path[:-1]:
        if isinstance(inner[key], tuple):
            inner[key] = list(inner[key])
        inner = inner[key]
    return made, inner


def replaced(table, path, value):
    """Return a copy of a table with another value at a path."""
    made, inner = copied(table, path)
    inner[path[-1]] = value
    return made


def removed(table, path):
    """Return a copy of a table without the value at a path."""
    made, inner = copied(table, path)
    del inner[path[-1]]
    return made


def damaged_tables(table):
    """Yield the name of a damage and a damaged table, for every value and every damage."""
    for path in paths_in(table):
        where = ".".join(map(str, path))
        for name, value in VALUES.items():
            yield f"{where} is {name}", replaced(table, path, value)
        yield f"{where} is missing", removed(table, path)


def damaged_tensors(tensor: Tensor):
    """Return tensors of other shapes, types and values by a name of the damage."""
    numbers = tensor.double()
    return {
        "of another shape": torch.zeros(7, 3),
        "without a dimension": torch.zeros(()),
        "of no size": torch.zeros(0),
        "one longer": torch.cat([numbers, numbers[:1]]).to(tensor.dtype) if tensor.dim() else torch.zeros(2),
        "of integers": numbers.round().long() if not numbers.isnan().any() else torch.zeros(tensor.shape).long(),
        "of complex numbers": numbers.to(torch.complex64),
        "of Booleans": tensor != 0,
        "of half precision": numbers.half(),
        "of NaN": torch.full_like(tensor, math.nan) if tensor.is_floating_point() else torch.zeros(2),
        "of huge numbers": torch.full_like(tensor, 1e38) if tensor.is_floating_point() else tensor + 2**40,
        "of negative numbers": -torch.ones_like(tensor),
    }


def damaged_checkpoints(checkpoint):
    """Yield the name of a damage and a function that returns the checkpoint, for every value and every damage."""
    for path in paths_in(checkpoint):
        where = ".".join(map(str, path))
        value = checkpoint
        for key in path:
            value = value[key]
        damages = damaged_tensors(value) if isinstance(value, Tensor) else {"a tensor": torch.zeros(2, 2), **VALUES}
        for name, one in damages.items():
            yield f"{where} is {name}", partial(replaced, checkpoint, path, one)
        yield f"{where} is missing", partial(removed, checkpoint, path)
