"""The axis of the samples at the model output, which everything else about samples follows from."""

from __future__ import annotations

from typing import Any

from ddn_core.engine.nodes import Edge, kind_of, shape_of
from ddn_core.engine.sample_axis import SampleAxis
from ddn_core.errors import ArgumentError, CurvatureError

_VIEWS = {"View", "UnsafeView", "ReshapeAlias"}
_PASSED = {"Slice", "ToCopy", "Clone", "Alias", "BackwardHookFunction", "Permute", "Transpose"}


def find_sample_axis(output: Edge, samples: int | None) -> SampleAxis:
    """Return the axis of the samples at the model output.

    By default the samples are along the first axis. Where the output was flattened just before the loss, as `[N, T, V]`
    to `[N · T, V]`, they are along the first axis before that.

    Args:
        output: Edge of the model output.
        samples: Number of samples, if the user gave it.

    Raises:
        ArgumentError: The given number of samples does not fit the output.
        CurvatureError: The output has no axis, or no samples.
    """
    shape = shape_of(output)
    if not shape:
        raise CurvatureError(
            "the loss function was given a model output without an axis. Keep the axis of the samples: the loss of a "
            "batch belongs to an output of shape [N, ...]."
        )
    before = _shape_before_flattening(output)
    count = samples if samples is not None else (before or shape)[0]
    if shape.numel() == 0 or count == 0:
        raise CurvatureError("the loss function was given an empty batch (batch size 0). Skip empty batches.")
    if shape[0] % count:
        raise ArgumentError(
            f"samples = {samples} does not fit a model output of shape {list(shape)}: the length of its first axis is "
            f"no multiple of {samples}. Give the number of samples in the batch."
        )
    is_minor = before is not None and len(before) > 1 and before[0] != count == before[1] and shape[0] > count
    return SampleAxis(count, 0, not is_minor)


def _shape_before_flattening(output: Edge) -> tuple[int, ...] | None:
    """Return the shape of the output before its first axes were flattened, `None` if they were not."""
    length, axes = shape_of(output)[0], len(shape_of(output))
    node: Any = output[0]
    while node is not None:
        kind = kind_of(node)
        if kind in _VIEWS:
            shape = tuple(node._saved_self_sym_sizes)
            if len(shape) > axes and 1 < shape[0] < length:
                return shape
        elif kind not in _PASSED:
            return None
        node = node.next_functions[0][0]
    return None
