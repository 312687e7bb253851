"""The rows of V that belong to the parameters of an operation, kept in the structured form that the operation gives.

`columns.py` declares the operations of every form; `product.py`, `formed.py`, `summed.py` and `concatenated.py` are the
forms. `family.py` declares what the engine needs to know about a family of operations with a weight, and each family
has its own file. `factor.py` has `Factor`, which the rest of the engine uses.
"""

from ddn_core.engine.factors.columns import Columns, ParameterVector, ParameterVectors, mirror
from ddn_core.engine.factors.concatenated import ConcatenatedColumns
from ddn_core.engine.factors.contraction import form
from ddn_core.engine.factors.convolution import ConvolutionFamily, TransposedConvolutionFamily
from ddn_core.engine.factors.embedding import EmbeddingFamily
from ddn_core.engine.factors.factor import Factor
from ddn_core.engine.factors.factor_input import FactorInput
from ddn_core.engine.factors.family import WeightFamily
from ddn_core.engine.factors.formed import FormedColumns
from ddn_core.engine.factors.layout import Layout, ParameterLayout, WeightLayout
from ddn_core.engine.factors.linear import LinearFamily
from ddn_core.engine.factors.product import ProductColumns
from ddn_core.engine.factors.summed import SummedColumns

__all__ = [
    "Columns",
    "ConcatenatedColumns",
    "ConvolutionFamily",
    "EmbeddingFamily",
    "Factor",
    "FactorInput",
    "FormedColumns",
    "Layout",
    "LinearFamily",
    "ParameterLayout",
    "ParameterVector",
    "ParameterVectors",
    "ProductColumns",
    "SummedColumns",
    "TransposedConvolutionFamily",
    "WeightFamily",
    "WeightLayout",
    "form",
    "mirror",
]
