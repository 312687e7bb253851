"""The rows of V that belong to the parameters of a layer, kept in the structured form that the layer gives.

`columns.py` declares the operations of every form; `product.py`, `formed.py` and `concatenated.py` are the forms.
`family.py` declares what the engine needs to know about a kind of layer, and each kind has its own file. `factor.py`
has `Factor`, which the rest of the engine uses.
"""

from torch import nn

from ddn_core.engine.factors.batch_norm import BatchNormFamily
from ddn_core.engine.factors.columns import Columns, ParameterVectors, mirror
from ddn_core.engine.factors.concatenated import ConcatenatedColumns
from ddn_core.engine.factors.contraction import form
from ddn_core.engine.factors.convolution import ConvolutionFamily, TransposedConvolutionFamily
from ddn_core.engine.factors.embedding import EmbeddingFamily
from ddn_core.engine.factors.factor import Factor
from ddn_core.engine.factors.family import LayerFamily
from ddn_core.engine.factors.formed import FormedColumns
from ddn_core.engine.factors.layer_input import LayerInput
from ddn_core.engine.factors.layout import Layout, ParameterLayout
from ddn_core.engine.factors.linear import LinearFamily
from ddn_core.engine.factors.product import ProductColumns

FAMILIES: dict[type[nn.Module], LayerFamily] = {
    nn.Linear: LinearFamily(),
    **{kind: ConvolutionFamily() for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)},
    **{kind: TransposedConvolutionFamily() for kind in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)},
    **{kind: BatchNormFamily() for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)},
    nn.Embedding: EmbeddingFamily(),
}
"""The layers whose parameters can be in a group."""

__all__ = [
    "FAMILIES",
    "Columns",
    "ConcatenatedColumns",
    "Factor",
    "FormedColumns",
    "LayerFamily",
    "LayerInput",
    "Layout",
    "ParameterLayout",
    "ParameterVectors",
    "ProductColumns",
    "form",
    "mirror",
]
