"""The mathematics: from one backward pass to a directionally damped Newton step.

Data goes one way, one file each::

    capture/        loss.backward()                   -> Capture: factors for each group's parameters
    factors/        rows of V that belong to a layer's parameters, in structured form
    gram.py         factors of a group                -> GroupCurvature: VᵀV, V·w, Vᵀ·v
    spectrum.py     Gram matrix                       -> eigenvalues, Gram eigenvectors (krylov.py: the leading ones)
    directions.py   spectrum                          -> Directions: gammas, lambdas when first read (source.py)
    context.py      facts for strategies beyond the directions (outcome.py: the outcome of the last step)
    step.py         directions, dampings              -> coefficients, and the step in parameter space
    solved.py       one damping for all directions    -> the same step, without eigenvectors
    terms.py        terms of a step beyond the loss: weight decay, memory of the previous step, the complement
    quadratic.py    the quadratic model of the loss along any move
    pipeline.py     calls the above in order

Knows torch (and BackPACK in `capture/`), no plugin, no config, no pydantic. What other rooms may use is what
this module exports.
"""

from ddn_core.engine.capture import Capture, CurvatureCapture, Subsampling, Wanted, joined
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
from ddn_core.engine.quadratic import QuadraticModel
from ddn_core.engine.spectrum import eigendecompose
from ddn_core.engine.step import (
    Correction,
    DampedDirections,
    DirectionTable,
    GroupStep,
    StepSummary,
    all_finite,
    predicted_decrease,
)
from ddn_core.engine.terms import StepTerms

__all__ = [
    "STAGES",
    "Capture",
    "Choice",
    "Context",
    "Correction",
    "CurvatureCapture",
    "DampedDirections",
    "DirectionTable",
    "Directions",
    "GivenNorms",
    "GroupCurvature",
    "GroupMemo",
    "GroupRequest",
    "GroupStep",
    "Outcome",
    "QuadraticModel",
    "StageClock",
    "StageEstimate",
    "StepSummary",
    "StepTerms",
    "Subsampling",
    "Wanted",
    "all_finite",
    "damped_newton_step",
    "eigendecompose",
    "estimate",
    "group_directions",
    "group_eigenvalues",
    "joined",
    "outputs_per_sample",
    "predicted_decrease",
    "quadratic_model",
]
