"""The built-in strategies and problems: an ordinary plugin, registered by the entry point `builtin`."""

from ddn_core.api import Criterion, Damping, Problem, hookimpl
from ddn_plugins.criteria.all import All
from ddn_plugins.criteria.all_of import AllOf
from ddn_plugins.criteria.any_of import AnyOf
from ddn_plugins.criteria.relative_threshold import RelativeThreshold
from ddn_plugins.criteria.threshold import Threshold
from ddn_plugins.criteria.top_k import TopK
from ddn_plugins.damping.constant import Constant
from ddn_plugins.damping.maximum import Maximum
from ddn_plugins.damping.relative import Relative
from ddn_plugins.damping.sum import Sum
from ddn_plugins.problems.digits_cnn import DigitsCnn
from ddn_plugins.problems.digits_mlp import DigitsMlp


@hookimpl
def ddn_criteria() -> list[type[Criterion]]:
    """Return the built-in criteria."""
    return [All, TopK, Threshold, RelativeThreshold, AllOf, AnyOf]


@hookimpl
def ddn_dampings() -> list[type[Damping]]:
    """Return the built-in dampings."""
    return [Constant, Relative, Maximum, Sum]


@hookimpl
def ddn_problems() -> list[type[Problem]]:
    """Return the built-in problems."""
    return [DigitsMlp, DigitsCnn]
