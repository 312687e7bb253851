"""Built-in criteria, one per file."""

from ddn_core.api import Criterion
from ddn_plugins.criteria.all import All
from ddn_plugins.criteria.all_of import AllOf
from ddn_plugins.criteria.any_of import AnyOf
from ddn_plugins.criteria.at_least import AtLeast
from ddn_plugins.criteria.at_most import AtMost
from ddn_plugins.criteria.bulk_edge import BulkEdge
from ddn_plugins.criteria.effective_dimension import EffectiveDimension
from ddn_plugins.criteria.eigengap import Eigengap
from ddn_plugins.criteria.energy import Energy
from ddn_plugins.criteria.gain import Gain
from ddn_plugins.criteria.gradient_overlap import GradientOverlap
from ddn_plugins.criteria.none_of import NoneOf
from ddn_plugins.criteria.random import Random
from ddn_plugins.criteria.relative_threshold import RelativeThreshold
from ddn_plugins.criteria.snr import Snr
from ddn_plugins.criteria.threshold import Threshold
from ddn_plugins.criteria.top_k import TopK

ALL: list[type[Criterion]] = [
    All,
    TopK,
    Threshold,
    RelativeThreshold,
    Energy,
    Eigengap,
    BulkEdge,
    EffectiveDimension,
    Snr,
    Gain,
    GradientOverlap,
    Random,
    AllOf,
    AnyOf,
    NoneOf,
    AtLeast,
    AtMost,
]
"""All classes, in the order of `ddn plugins`."""
