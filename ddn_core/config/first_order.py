"""Optimizers of torch that a config can select: as fallback for parameters outside of all groups, or as baseline."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ddn_core.config.stepping import Fraction, Momentum
from ddn_core.plugins.messages import TableModel
from ddn_core.plugins.units import Unit


class FirstOrder(TableModel):
    """An optimizer of torch.

    Fields have the names and the defaults of torch's arguments.
    """

    kind: str

    def options(self) -> dict[str, Any]:
        """Return the arguments of torch's class."""
        return self.model_dump(exclude={"kind"}, exclude_none=True)


class SgdConfig(FirstOrder, Momentum):
    """Stochastic gradient descent, `torch.optim.SGD`."""

    kind: Literal["sgd"] = Field(description="Stochastic gradient descent.")
    lr: Annotated[PositiveFloat, Unit("param²/loss")] = Field(description="Learning rate.")
    weight_decay: Annotated[NonNegativeFloat, Unit("loss/param²")] = Field(0.0, description="L2 weight decay.")


class AdamConfig(FirstOrder):
    """Adam (Kingma and Ba 2015), `torch.optim.Adam`."""

    kind: Literal["adam"] = Field(description="Adam.")
    lr: Annotated[PositiveFloat, Unit("param")] = Field(1e-3, description="Learning rate.")
    betas: tuple[Fraction, Fraction] = Field(
        (0.9, 0.999), description="Decay factors of the running averages of the gradient and of its square."
    )
    eps: Annotated[PositiveFloat, Unit("loss/param")] = Field(1e-8, description="Number added to the denominator.")
    weight_decay: Annotated[NonNegativeFloat, Unit("loss/param²")] = Field(0.0, description="L2 weight decay.")


class AdamwConfig(FirstOrder):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), `torch.optim.AdamW`."""

    kind: Literal["adamw"] = Field(description="Adam with decoupled weight decay.")
    lr: Annotated[PositiveFloat, Unit("param")] = Field(1e-3, description="Learning rate.")
    betas: tuple[Fraction, Fraction] = Field(
        (0.9, 0.999), description="Decay factors of the running averages of the gradient and of its square."
    )
    eps: Annotated[PositiveFloat, Unit("loss/param")] = Field(1e-8, description="Number added to the denominator.")
    weight_decay: Annotated[NonNegativeFloat, Unit("1/param")] = Field(0.01, description="Decoupled weight decay.")


class LbfgsConfig(FirstOrder):
    """Limited-memory BFGS, `torch.optim.LBFGS`."""

    kind: Literal["lbfgs"] = Field(description="Limited-memory BFGS.")
    lr: Annotated[PositiveFloat, Unit("1")] = Field(1.0, description="Factor on the step.")
    max_iter: PositiveInt = Field(20, description="Largest number of iterations per step.")
    history_size: PositiveInt = Field(100, description="Number of updates kept for the approximation of the Hessian.")
    tolerance_grad: Annotated[NonNegativeFloat, Unit("loss/param")] = Field(
        1e-7, description="Largest absolute entry of the gradient at which the iteration stops."
    )
    tolerance_change: Annotated[NonNegativeFloat, Unit("1")] = Field(
        1e-9, description="Change of the loss or of the parameters at which the iteration stops."
    )
    line_search_fn: Literal["strong_wolfe"] | None = Field(None, description="Line search; none by default.")


Baseline = Annotated[SgdConfig | AdamConfig | AdamwConfig | LbfgsConfig, Field(discriminator="kind")]
Fallback = Annotated[SgdConfig | AdamwConfig, Field(discriminator="kind")]


class FallbackTable(TableModel):
    """Table with the single field `fallback`, to validate that field by itself."""

    fallback: Fallback | None = Field(None, description="Optimizer of torch for parameters outside of all groups.")
