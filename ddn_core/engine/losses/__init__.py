"""The losses that the engine knows, found in the graph of the loss.

`recognition.py` finds the loss function between the loss and the model output. `term.py` declares what the engine needs
of it: a root of its Hessian with respect to the output, and the coefficients of its gradient in this root. Each family
of losses has its own file. `roots.py` has the kinds of curvature: exact, Monte-Carlo, and aligned with the gradient.
"""

from ddn_core.engine.losses.recognition import RecognizedLoss, checked_top, recognize
from ddn_core.engine.losses.roots import AlignedRoot, CurvatureKind, ExactRoot, MonteCarloRoot, Root, root_of
from ddn_core.engine.losses.term import LossTerm, magnitude_of, unit_of_root

__all__ = [
    "AlignedRoot",
    "CurvatureKind",
    "ExactRoot",
    "LossTerm",
    "MonteCarloRoot",
    "RecognizedLoss",
    "Root",
    "checked_top",
    "magnitude_of",
    "recognize",
    "root_of",
    "unit_of_root",
]
