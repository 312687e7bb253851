"""The mathematics: from one backward pass to a directionally damped Newton step.

Data goes one way, one file each::

    capture/        loss.backward()                   -> Capture: a Factor for each parameter
    factors/        rows of V that belong to a parameter, in structured form
    gram.py         factors of a group                -> Gram matrix VᵀV and VᵀG
    spectrum.py     Gram matrix                       -> eigenvalues, Gram eigenvectors
    directions.py   spectrum                          -> Directions: gammas, lambdas when first read
    step.py         directions, dampings              -> coefficients, and the step in parameter space
    pipeline.py     calls the above in order

Knows torch (and BackPACK in `capture/`), no plugin, no config, no pydantic. What other rooms may use is what
this module exports.
"""

from ddn_core.engine.capture import Capture, CurvatureCapture
from ddn_core.engine.directions import Directions
from ddn_core.engine.pipeline import damped_newton_directions
from ddn_core.engine.step import DampedDirections

__all__ = [
    "Capture",
    "CurvatureCapture",
    "DampedDirections",
    "Directions",
    "damped_newton_directions",
]
