"""The layers that backpropagation can pass."""

from __future__ import annotations

from torch.nn import Module

from ddn_core.engine.capture.jacobians import JACOBIANS
from ddn_core.engine.factors import FAMILIES
from ddn_core.errors import CurvatureError


def check_layer(layer: Module) -> None:
    """Raise if a layer is not supported, or set up in a way that its derivatives do not describe.

    Raises:
        CurvatureError: It is not, or it is.
    """
    if type(layer) not in JACOBIANS:
        raise unsupported_layer(layer)
    if type(layer) in FAMILIES:
        FAMILIES[type(layer)].check(layer)


def check_parameter(layer: Module, name: str) -> None:
    """Raise if a parameter of a supported layer is none that its kind has.

    Raises:
        CurvatureError: Pruning or a reparametrization added it.
    """
    if name not in ("weight", "bias") or type(layer) not in FAMILIES:
        raise CurvatureError(
            f"parameter {name!r} of layer {type(layer).__name__} is not supported (pruning and reparametrizations add "
            "such). Leave it out of the parameter groups, or freeze it with requires_grad_(False)."
        )


def unsupported_layer(layer: Module) -> CurvatureError:
    """Return the error for a module that backpropagation cannot pass."""
    supported = ", ".join(sorted({kind.__name__ for kind in JACOBIANS}))
    return CurvatureError(
        f"layer {type(layer).__name__} ({type(layer).__module__}) is not supported. Replace it by supported layers "
        f"({supported}); for a model with code of its own in `forward`, try "
        "`backpack.extend(model, use_converter=True)`."
    )
