"""Tensors in a file of safetensors, which runs no code when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ddn_core.errors import ArgumentError
from ddn_core.files import write_atomically
from ddn_core.foreign import content_of

if TYPE_CHECKING:
    from torch import Tensor

ADVICE = "traces need safetensors: pip install 'ddn-core[trace]'"


def check_installed() -> None:
    """Raise an error unless traces can be written.

    Raises:
        ArgumentError: safetensors is not installed.
    """
    if find_spec("safetensors") is None:
        raise ArgumentError(ADVICE)


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """Write tensors by name, and return the number of bytes."""
    import torch
    from safetensors.torch import save

    content = save(
        {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    )
    write_atomically(path, content)
    return len(content)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file, by name.

    Raises:
        ArgumentError: safetensors is not installed, or the file is missing or damaged.
    """
    check_installed()
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found: dict[str, Tensor] = load(content_of(path))
    except FileNotFoundError as error:
        raise ArgumentError(f"{path} cannot be read: {error.strerror}") from error
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a type of numbers that torch lacks
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"{path} is damaged: {error}") from error
    return found
