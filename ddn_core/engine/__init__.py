"""The mathematics: from one backward pass to a directionally damped Newton step.

Data goes one way, one file each::

    capture/        loss.backward()                   -> Capture: factors for each group's parameters
    factors/        rows of V that belong to a layer's parameters, in structured form
    gram.py         factors of a group                -> GroupCurvature: VᵀV, V·w, Vᵀ·v
    spectrum.py     Gram matrix                       -> eigenvalues, Gram eigenvectors (krylov.py: the leading ones)
    directions.py   spectrum                          -> Directions: gammas, lambdas when first read (source.py)
    context.py      what a strategy can know beyond the directions (outcome.py: what the last step did)
    step.py         directions, dampings              -> coefficients, and the step in parameter space
    solved.py       one damping for all directions    -> the same step, without eigenvectors
    pipeline.py     calls the above in order

Knows torch (and BackPACK in `capture/`), no plugin, no config, no pydantic. What other rooms may use is what
this module exports.
"""

from ddn_core.engine.capture import Capture, CurvatureCapture, Subsampling, Wanted, joined
from ddn_core.engine.context import Context, GivenNorms
from ddn_core.engine.cost import GroupRequest, StageEstimate, estimate, outputs_per_sample
from ddn_core.engine.directions import Directions
from ddn_core.engine.outcome import Outcome
from ddn_core.engine.pipeline import Choice, damped_newton_step, group_directions, group_eigenvalues
from ddn_core.engine.step import DampedDirections, GroupStep, Spectral

__all__ = [
    "Capture",
    "Choice",
    "Context",
    "CurvatureCapture",
    "DampedDirections",
    "Directions",
    "GivenNorms",
    "GroupRequest",
    "GroupStep",
    "Outcome",
    "Spectral",
    "StageEstimate",
    "Subsampling",
    "Wanted",
    "damped_newton_step",
    "estimate",
    "group_directions",
    "group_eigenvalues",
    "joined",
    "outputs_per_sample",
]
