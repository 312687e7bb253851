"""The mask of dropout, which nothing keeps: from the layer's input and output, and the gradients before and behind it.

A unit is dropped where a nonzero input has become zero. Where the input itself is zero, the gradients tell: a nonzero
gradient behind the layer that is zero before it. Where both are zero the unit is taken as kept, which no derivative of
the loss at this point contradicts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddn_core.engine.capture.tape import LayerCall


def dropout_mask(call: LayerCall, samples: slice, dtype: torch.dtype) -> Tensor:
    """Return the mask that the forward pass drew, times 1 / (1 - p), for some samples."""
    layer: Any = call.layer
    values, output = call.inputs[0][samples].detach(), call.output[samples].detach()
    assert call.output_gradient is not None  # `needs_output_gradient` has seen to it
    behind = call.output_gradient[samples]
    before = behind if call.input_gradient is None else call.input_gradient[samples]
    kept_by_gradient = (before != 0) | (behind == 0)
    kept: Tensor = torch.where(values != 0, output != 0, kept_by_gradient)
    return kept.to(dtype) / (1 - layer.p) if layer.p < 1 else torch.zeros_like(kept, dtype=dtype)
