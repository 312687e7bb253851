"""The nodes of autograd's graph: their kinds, and what torch tells of their edges and saved values."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Size, Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

Edge = tuple[Node, int]
"""An edge of the graph: a node, and the number of its output in the forward pass."""


def kind_of(node: Node) -> str:
    """Return the kind of a graph node, such as `Addmm`: its name without a namespace and `Backward0`.

    The kind of a function that a user wrote begins with `function`, so that it is not taken for one of torch's.
    """
    name = _plain_name(node.name())
    return f"function {name}" if isinstance(node, BackwardCFunction) and name != "BackwardHookFunction" else name


@cache
def _plain_name(name: str) -> str:
    """Return the name of a node without a namespace and `Backward0`."""
    return name.rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")


def shape_of(edge: Edge) -> Size:
    """Return the shape of the tensor at an edge."""
    return Size(_metadata(edge).shape)


def dtype_of(edge: Edge) -> torch.dtype:
    """Return the dtype of the tensor at an edge."""
    dtype: torch.dtype = _metadata(edge).dtype
    return dtype


def device_of(edge: Edge) -> torch.device:
    """Return the device of the tensor at an edge."""
    device: torch.device = _metadata(edge).device
    return device


def output_count(node: Any) -> int:
    """Return the number of outputs that the operation of a node has in the forward pass."""
    return len(node._input_metadata)


def variable_of(node: Node) -> Tensor | None:
    """Return the leaf tensor whose gradient a node accumulates, `None` for other nodes."""
    return getattr(node, "variable", None)


def signed(number: int) -> int:
    """Return an integer that a node has saved, of which torch shows negative ones as larger than 2⁶³."""
    return number - 2**64 if number >= 2**63 else number


def saved_numbers(node: Node) -> tuple[Any, ...]:
    """Return the numbers that a node has saved: settings such as a stride, and sizes."""
    return tuple([getattr(node, name) for name in _number_names(type(node))])


def _metadata(edge: Edge) -> Any:
    node: Any = edge[0]
    return node._input_metadata[edge[1]]


@cache
def _number_names(kind: type) -> tuple[str, ...]:
    """Return the names of the attributes in which nodes of a class save numbers rather than tensors."""
    names = dir(kind)
    return tuple(
        name
        for name in names
        if name.startswith("_saved_")
        and name.replace("_saved", "_raw_saved", 1) not in names
        and not name.endswith("sym_strides")
    )
