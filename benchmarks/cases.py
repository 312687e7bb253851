"""The cases of the benchmark: a problem with a grouping of its parameters, a curvature and a criterion."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product

from benchmarks.architectures import ARCHITECTURES, PROBLEMS, Architecture, Size

GROUPINGS = ("one-group", "per-layer")
CURVATURES = ("exact", "mc-1")
CRITERIA = ("top-10", "all")


@dataclass(frozen=True)
class Case:
    """A step to measure, with damping 1 in every direction.

    Attributes:
        problem: Name of the network.
        samples: Batch size N; 0 for the default of the network.
        grouping: `one-group` for all parameters, or `per-layer`.
        curvature: `exact` GGN, or `mc-1` for one Monte-Carlo sample of the loss Hessian.
        criterion: `top-10` directions, or `all`.
        classes: Number of model outputs C; 0 for the default of the network.
        width: Factor on the number of units or channels of every hidden layer.
        depth: Number of layers; 0 for the default of the network.
    """

    problem: str
    samples: int = 0
    grouping: str = "one-group"
    curvature: str = "exact"
    criterion: str = "top-10"
    classes: int = 0
    width: int = 1
    depth: int = 0

    @property
    def name(self) -> str:
        """Name of the case, which the globs of `--case` match."""
        return f"{self.problem}/{self.grouping}/{self.curvature}/{self.criterion}"

    @property
    def architecture(self) -> Architecture:
        """The network."""
        return ARCHITECTURES[self.problem]

    @property
    def size(self) -> Size:
        """Size of the network.

        Raises:
            ValueError: The case has a depth, but the network comes in one depth only.
        """
        usual = self.architecture.size
        if self.depth and not usual.depth:
            raise ValueError(f"{self.problem} comes in one depth only.")
        return Size(self.classes or usual.classes, self.width, self.depth or usual.depth)

    @property
    def batch_size(self) -> int:
        """Number of samples N."""
        usual = self.architecture
        return self.samples or (usual.samples if self.curvature == "exact" else usual.samples_monte_carlo)

    @property
    def columns(self) -> int:
        """Number of columns of V, R."""
        return self.batch_size * (self.size.classes if self.curvature == "exact" else 1)


def comparison_cases(pattern: str = "*", problems: tuple[str, ...] = PROBLEMS) -> list[Case]:
    """Return the cases of the comparison with ViViT whose names match a glob.

    Args:
        pattern: Glob on `problem/grouping/curvature/criterion`.
        problems: Names of the networks.
    """
    axes = product(CURVATURES, GROUPINGS, CRITERIA, problems)
    cases = [
        Case(problem, grouping=grouping, curvature=curvature, criterion=criterion)
        for curvature, grouping, criterion, problem in axes
    ]
    return [case for case in cases if fnmatchcase(case.name, pattern)]
