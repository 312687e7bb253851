"""Counts of what a step asks of torch: figures that are free of the noise of a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_READ = "aten::_local_scalar_dense"


class CallCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count of the operations of aten that run inside a block.

    Attributes:
        calls: Number of operations.
        reads: Number of operations that read a number for Python, as `item()`, `bool()` and `tolist()` do. Each one
            makes the host wait for a GPU.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = self.reads = 0
        self._patch = patch.object(Tensor, "tolist", self._counted(Tensor.tolist))

    def __enter__(self) -> CallCount:
        self._patch.start()  # `tolist` is no operation: on the CPU it copies the memory
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._patch.stop()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation."""
        self.calls += 1
        self.reads += function._schema.name == _READ
        return function(*args, **(kwargs or {}))

    def _counted(self, tolist: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def counted(tensor: Tensor) -> Any:
            self.reads += 1
            return tolist(tensor)

        return counted


def count_calls(function: Callable[[], Any]) -> CallCount:
    """Return the counts of one call of a function."""
    with CallCount() as count:
        function()
    return count
