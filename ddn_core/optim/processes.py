"""Models that several processes train together: refused, since processes exchange gradients and no curvature."""

from __future__ import annotations

import gc
from collections.abc import Sequence

from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from ddn_core.errors import CurvatureError


def are_several_processes() -> bool:
    """Return whether this process belongs to a group of several processes."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def check_own_model(parameters: Sequence[Tensor]) -> None:
    """Raise if several processes train the model together; each may train a model of its own.

    Torch has no way to ask a parameter for the wrapper of its model, so that the wrappers of this process are searched.
    This takes a moment: call it once.

    Args:
        parameters: Parameters of the model.

    Raises:
        CurvatureError: The model is in a wrapper that exchanges gradients or parameters.
    """
    if (wrapper := _wrapper_of(parameters)) is not None:
        raise CurvatureError(
            f"{distributed.get_world_size()} processes train the model together ({wrapper}). They would exchange their "
            "gradients, but each has the curvature of its own part of the batch alone: the replicas would drift "
            "apart. No parameter has been touched. Train the model in one process, without the wrapper."
        )


def _wrapper_of(parameters: Sequence[Tensor]) -> str | None:
    """Return the name of the wrapper that a model is in, `None` if there is none."""
    if any(hasattr(own, "_fsdp_flattened") for own in parameters):
        return "FullyShardedDataParallel"
    if any(type(own).__name__ == "DTensor" for own in parameters):  # to import the class takes long
        return "DTensor"
    members = {id(own) for own in parameters}
    for thing in gc.get_objects():
        if issubclass(type(thing), DistributedDataParallel) and any(id(own) in members for own in thing.parameters()):
            return type(thing).__name__
    return None
