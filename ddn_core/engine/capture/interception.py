"""The backward passes of a thread are handed to a function, inside a block.

`loss.backward()` gives no other hold before it begins: hooks on graph nodes run when the nodes above them have released
what they saved. So `torch.autograd.backward`, which `Tensor.backward` calls, is replaced while a block is open, and
calls the function of the innermost block of its own thread; other threads go on as before.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Backward = Callable[..., None]


class _Blocks(threading.local):
    """The functions of the open blocks of a thread, the innermost last."""

    def __init__(self) -> None:
        self.handlers: list[Backward] = []


_blocks = _Blocks()
_lock = threading.Lock()
_open = 0
_original: Backward | None = None


@contextmanager
def backward_handed_to(handler: Backward) -> Iterator[None]:
    """Have a function called in place of each backward pass that this thread begins inside the block.

    Backward passes that the function itself begins are run as usual.

    Args:
        handler: Takes the arguments of `torch.autograd.backward`.
    """
    _enter()
    _blocks.handlers.append(handler)
    try:
        yield
    finally:
        if handler in _blocks.handlers:  # not if the block outlives a `backward_as_usual()` that it was opened in
            _blocks.handlers.remove(handler)
        _leave()


@contextmanager
def backward_as_usual() -> Iterator[None]:
    """Run the backward passes that this thread begins inside as usual, within any block."""
    handlers, _blocks.handlers = _blocks.handlers, []
    try:
        yield
    finally:
        _blocks.handlers = handlers


def _enter() -> None:
    global _open, _original
    with _lock:
        if not _open:
            _original = torch.autograd.backward
            torch.autograd.backward = _dispatch
        _open += 1


def _leave() -> None:
    global _open
    with _lock:
        _open -= 1
        if not _open and torch.autograd.backward is _dispatch:
            assert _original is not None
            torch.autograd.backward = _original


def _dispatch(*arguments: Any, **options: Any) -> None:
    """Call the function of the innermost block of this thread, or torch's own if there is no block."""
    assert _original is not None
    if not _blocks.handlers:
        _original(*arguments, **options)
        return
    handler = _blocks.handlers[-1]
    with backward_as_usual():
        handler(*arguments, **options)
