"""The mask of dropout, which no module keeps, from the layer's input and output and the gradients on both sides of it.

A unit was dropped if its input is not zero but its output is. If the input is zero, the gradients decide: the unit was
dropped if the gradient at the output is not zero but the gradient at the input is. If both gradients are zero, the unit
counts as kept, which agrees with every derivative of the loss at this point.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddn_core.engine.capture.tape import LayerCall


def dropout_mask(call: LayerCall, samples: slice, dtype: torch.dtype) -> Tensor:
    """Return the mask of the forward pass, times 1 / (1 - p), for some samples."""
    layer: Any = call.layer
    values, output = call.inputs[0][samples].detach(), call.output[samples].detach()
    assert call.output_gradient is not None  # recorded, since `needs_output_gradient` is true for dropout
    behind = call.output_gradient[samples]
    before = behind if call.input_gradient is None else call.input_gradient[samples]
    kept_by_gradient = (before != 0) | (behind == 0)
    kept: Tensor = torch.where(values != 0, output != 0, kept_by_gradient)
    return kept.to(dtype) / (1 - layer.p) if layer.p < 1 else torch.zeros_like(kept, dtype=dtype)
