"""Rows of V that belong to one parameter, kept in the structured form that the layer gives.

`columns.py` says what every form can do, `dense.py` and `linear.py` are the forms, and a `Factor` pairs the
columns of V with the per-sample gradients, which have the same structure.
"""

from ddn_core.engine.factors.columns import Columns, Factor
from ddn_core.engine.factors.dense import DenseColumns
from ddn_core.engine.factors.linear import LinearWeightColumns

__all__ = ["Columns", "DenseColumns", "Factor", "LinearWeightColumns"]
