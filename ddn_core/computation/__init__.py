"""ViViT's computations: a BackPACK extension and a hook, and a result for each parameter group.

groups.py                   the tables that the user gives -> checked groups with strategies of their own
base.py                     Computation: what all have in common; DirectionalComputation: what the last two have
eigenvalues.py              EigvalshComputation: eigenvalues
eigenpairs.py               EighComputation: eigenvalues, and eigenvectors in parameter space (orthonormal.py)
directional_derivatives.py  DirectionalDerivativesComputation: gammas, lambdas
damped_newton.py            DirectionalDampedNewtonComputation: the step
"""

from ddn_core.computation.damped_newton import DirectionalDampedNewtonComputation
from ddn_core.computation.directional_derivatives import DirectionalDerivativesComputation
from ddn_core.computation.eigenpairs import EighComputation
from ddn_core.computation.eigenvalues import EigvalshComputation

__all__ = [
    "DirectionalDampedNewtonComputation",
    "DirectionalDerivativesComputation",
    "EighComputation",
    "EigvalshComputation",
]
