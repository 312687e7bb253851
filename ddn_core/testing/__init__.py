"""What tests import: slow, obvious twins of the engine's quantities, from plain autograd.

`dense_ggn` and `per_sample_gradients` know nothing of the engine: they differentiate the model's output and the loss
sample by sample, and form every matrix.
"""

from ddn_core.testing.dense import (
    DenseTwin,
    dense_ggn,
    dense_twin,
    per_sample_ggns,
    per_sample_gradients,
)

__all__ = ["DenseTwin", "dense_ggn", "dense_twin", "per_sample_ggns", "per_sample_gradients"]
