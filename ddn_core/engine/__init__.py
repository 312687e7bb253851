"""The mathematics: from one backward pass to a directionally damped Newton step.

Data flows in one direction. Each file does one part::

    nodes.py        kinds, shapes and saved values of the nodes of autograd's graph
    sample_axis.py  where the samples of a batch are in a tensor
    losses/         the loss function in the graph of a loss: root of its Hessian, coefficients of its gradient
    capture/        the graph of a loss               -> Capture: factors for each group's parameters, for any model
    factors/        rows of V that belong to a parameter, in structured form
    gram.py         factors of a group                -> GroupCurvature: VᵀV, V·w, Vᵀ·v
    spectrum.py     Gram matrix                       -> eigenvalues, Gram eigenvectors (krylov.py: the leading ones)
    directions.py   spectrum                          -> Directions: gammas, lambdas when first read (source.py)
    context.py      facts for strategies beyond the directions (figures.py: those that cost; outcome.py: last step)
    step.py         directions, dampings              -> coefficients, and the step in parameter space
    solved.py       one damping for all directions    -> the same step, without eigenvectors (sides.py: two matrices)
    terms.py        terms of a step beyond the loss: weight decay, the anchor of memory or averaging, the complement
    quadratic.py    the quadratic model of the loss along any move
    versions.py     versions of tensors, to notice strategies that change them in place
    pipeline.py     calls the above in order
    clock.py        seconds that each stage of a step takes
    cost.py         operations and bytes of a step, estimated from shapes

The engine depends on torch, and on BackPACK in `capture/`; it knows no plugin, no config and no pydantic. Other
packages use only what this module exports.
"""

from ddn_core.engine.capture import (
    Capture,
    CaptureSettings,
    CurvatureCapture,
    PlanStore,
    Subsampling,
    WantedParameter,
    backward_as_usual,
    backward_handed_to,
    capture_loss,
    captured_backward,
    captured_gradient,
    concatenate,
)
from ddn_core.engine.clock import STAGES, StageClock
from ddn_core.engine.context import Context, GivenNorms
from ddn_core.engine.cost import GroupRequest, StageEstimate, estimate, outputs_per_sample
from ddn_core.engine.directions import Directions
from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.losses import CurvatureKind, Root, root_of
from ddn_core.engine.outcome import Outcome
from ddn_core.engine.pipeline import (
    Choice,
    GroupMemo,
    damped_newton_step,
    group_directions,
    group_eigenvalues,
    quadratic_model,
)
from ddn_core.engine.quadratic import QuadraticModel
from ddn_core.engine.spectrum import eigendecompose
from ddn_core.engine.step import (
    Correction,
    DampedDirections,
    DirectionTable,
    GroupStep,
    StepSummary,
    largest_entry,
    predicted_decrease,
    total_norm,
)
from ddn_core.engine.terms import StepTerms
from ddn_core.engine.versions import TensorVersions

__all__ = [
    "STAGES",
    "Capture",
    "CaptureSettings",
    "Choice",
    "Context",
    "Correction",
    "CurvatureCapture",
    "CurvatureKind",
    "DampedDirections",
    "DirectionTable",
    "Directions",
    "GivenNorms",
    "GroupCurvature",
    "GroupMemo",
    "GroupRequest",
    "GroupStep",
    "Outcome",
    "PlanStore",
    "QuadraticModel",
    "Root",
    "StageClock",
    "StageEstimate",
    "StepSummary",
    "StepTerms",
    "Subsampling",
    "TensorVersions",
    "WantedParameter",
    "backward_as_usual",
    "backward_handed_to",
    "capture_loss",
    "captured_backward",
    "captured_gradient",
    "concatenate",
    "damped_newton_step",
    "eigendecompose",
    "estimate",
    "group_directions",
    "group_eigenvalues",
    "largest_entry",
    "outputs_per_sample",
    "predicted_decrease",
    "quadratic_model",
    "root_of",
    "total_norm",
]
