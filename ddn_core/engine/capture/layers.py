"""Checks of layers: backpropagation must support the layer and its configuration."""

from __future__ import annotations

from torch.nn import Module

from ddn_core.engine.capture.families import FAMILIES, family_of
from ddn_core.engine.capture.jacobians import JACOBIANS
from ddn_core.errors import CurvatureError


def check_layer(layer: Module) -> None:
    """Check that a layer is supported in its configuration.

    Raises:
        CurvatureError: The layer is unsupported, or configured in an unsupported way.
    """
    if type(layer) not in JACOBIANS:
        raise unsupported_layer(layer)
    if type(layer) in FAMILIES:
        family_of(layer)  # checks the configuration


def check_parameter(layer: Module, name: str) -> None:
    """Check that a parameter of a supported layer is the weight or the bias of a supported kind.

    Raises:
        CurvatureError: Pruning or a reparametrization added the parameter.
    """
    if name not in ("weight", "bias") or type(layer) not in FAMILIES:
        raise CurvatureError(
            f"parameter {name!r} of layer {type(layer).__name__} is not supported: pruning and reparametrizations add "
            "such parameters. Leave it out of the parameter groups, or freeze it with requires_grad_(False)."
        )


def unsupported_layer(layer: Module) -> CurvatureError:
    """Return the error for an unsupported module."""
    supported = ", ".join(sorted({kind.__name__ for kind in JACOBIANS}))
    return CurvatureError(
        f"layer {type(layer).__name__} ({type(layer).__module__}) is not supported. Replace it by supported layers "
        f"({supported}). For a model with its own code in `forward`, try "
        "`backpack.extend(model, use_converter=True)`."
    )
