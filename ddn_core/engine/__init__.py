"""The mathematics: from one backward pass to a directionally damped Newton step.

Data flows in one direction. Each file does one part::

    capture/        loss.backward()                   -> Capture: factors for each group's parameters
    factors/        rows of V that belong to a layer's parameters, in structured form
    gram.py         factors of a group                -> GroupCurvature: VᵀV, V·w, Vᵀ·v
    spectrum.py     Gram matrix                       -> eigenvalues, Gram eigenvectors (krylov.py: the leading ones)
    directions.py   spectrum                          -> Directions: gammas, lambdas when first read (source.py)
    context.py      what a strategy can know beyond the directions (outcome.py: result of the last step)
    step.py         directions, dampings              -> coefficients, and the step in parameter space
    solved.py       one damping for all directions    -> the same step, without eigenvectors
    pull.py         step terms beside the loss: weight decay, memory of the previous step
    quadratic.py    quadratic model of the loss along any move
    pipeline.py     calls the above in order
    clock.py        seconds that each stage of a step takes
    cost.py         operations and bytes of a step, estimated from shapes

The engine depends on torch, and on BackPACK in `capture/`; it knows no plugin, no config and no pydantic. Other
packages use only what this module exports.
"""

from ddn_core.engine.capture import Capture, CurvatureCapture, Subsampling, WantedParameter, concatenate
from ddn_core.engine.clock import STAGES, StageClock
from ddn_core.engine.context import Context, GivenNorms
from ddn_core.engine.cost import GroupRequest, StageEstimate, estimate, outputs_per_sample
from ddn_core.engine.directions import Directions
from ddn_core.engine.gram import GroupCurvature
from ddn_core.engine.outcome import Outcome
from ddn_core.engine.pipeline import (
    Choice,
    GroupMemo,
    damped_newton_step,
    group_directions,
    group_eigenvalues,
    quadratic_model,
)
from ddn_core.engine.pull import Pull
from ddn_core.engine.quadratic import QuadraticModel
from ddn_core.engine.spectrum import eigendecompose
from ddn_core.engine.step import DampedDirections, GroupStep, Spectral, SpectralSummary

__all__ = [
    "STAGES",
    "Capture",
    "Choice",
    "Context",
    "CurvatureCapture",
    "DampedDirections",
    "Directions",
    "GivenNorms",
    "GroupCurvature",
    "GroupMemo",
    "GroupRequest",
    "GroupStep",
    "Outcome",
    "Pull",
    "QuadraticModel",
    "Spectral",
    "SpectralSummary",
    "StageClock",
    "StageEstimate",
    "Subsampling",
    "WantedParameter",
    "concatenate",
    "damped_newton_step",
    "eigendecompose",
    "estimate",
    "group_directions",
    "group_eigenvalues",
    "outputs_per_sample",
    "quadratic_model",
]
