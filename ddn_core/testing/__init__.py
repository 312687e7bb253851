"""Tools for tests: checks of the contract of strategies, and reference computations of the engine's quantities.

contract.py   runs all checks on a strategy, with or without pytest (checks.py: one function for each rule)
spectra.py    directions without a model, to try strategies on
recorded.py   recorded curvature of a real run, for `ddn_core.traces.replay`
dense.py      dense GGNs and per-sample derivatives from plain autograd, independent of the engine
"""

from ddn_core.testing.contract import check_names, check_strategy, parametrize_with_checks
from ddn_core.testing.dense import (
    DenseTwin,
    dense_ggn,
    dense_twin,
    per_sample_ggns,
    per_sample_gradients,
)
from ddn_core.testing.recorded import digits_trace
from ddn_core.testing.spectra import difficult_directions, typical_directions

__all__ = [
    "DenseTwin",
    "check_names",
    "check_strategy",
    "dense_ggn",
    "dense_twin",
    "difficult_directions",
    "digits_trace",
    "parametrize_with_checks",
    "per_sample_ggns",
    "per_sample_gradients",
    "typical_directions",
]
