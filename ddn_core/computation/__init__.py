"""ViViT's computations, for any model: a result for each parameter group after a backward pass.

groups.py                   the user's group tables -> checked groups, each with its own strategies
base.py                     Computation: the base class of all; DirectionalComputation: that of the last two
eigenvalues.py              EigvalshComputation: eigenvalues
eigenpairs.py               EighComputation: eigenvalues, and eigenvectors in parameter space (orthonormal.py)
directional_derivatives.py  DirectionalDerivativesComputation: gammas, lambdas
damped_newton.py            DirectionalDampedNewtonComputation: the step
curvature.py                curvature: these quantities for a loss of any model, in one call
"""

from ddn_core.computation.curvature import curvature
from ddn_core.computation.damped_newton import DirectionalDampedNewtonComputation
from ddn_core.computation.directional_derivatives import DirectionalDerivativesComputation
from ddn_core.computation.eigenpairs import EighComputation
from ddn_core.computation.eigenvalues import EigvalshComputation

__all__ = [
    "DirectionalDampedNewtonComputation",
    "DirectionalDerivativesComputation",
    "EighComputation",
    "EigvalshComputation",
    "curvature",
]
