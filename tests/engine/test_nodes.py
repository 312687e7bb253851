"""Names of autograd's nodes and of their saved values, which the engine reads and torch does not promise to keep.

A release of torch that renames one of them fails here, by the name of the node and of the value.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import CodeType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ddn_core.engine
from ddn_core.engine.capture import sites
from ddn_core.engine.capture.batch import _VIEWS
from ddn_core.engine.losses.recognition import FAMILIES
from ddn_core.engine.nodes import device_of, dtype_of, kind_of, output_count, saved_numbers, shape_of, variable_of


def _leaf(*shape):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator).requires_grad_()


CLASSES = torch.tensor([0, 2, 1])
HALVES = torch.full((3, 3), 0.5)

NODES = {
    # an operation whose node has the kind, and the values that the engine reads from a node of this kind
    "Addmm": (lambda: torch.addmm(_leaf(2), _leaf(3, 4), _leaf(4, 2)), ["mat1", "mat2", "alpha", "beta"]),
    "Mm": (lambda: _leaf(3, 4) @ _leaf(4, 2), ["self", "mat2"]),
    "Bmm": (lambda: torch.bmm(_leaf(2, 3, 4), _leaf(2, 4, 2)), ["self"]),
    "Convolution": (
        lambda: F.conv1d(_leaf(2, 3, 5), _leaf(4, 3, 2), _leaf(4)),
        ["input", "stride", "padding", "dilation", "transposed", "groups", "output_padding"],
    ),
    "Embedding": (
        lambda: F.embedding(CLASSES, _leaf(3, 2)),
        ["indices", "sparse", "scale_grad_by_freq", "padding_idx"],
    ),
    "Add": (lambda: _leaf(3, 2) + _leaf(2), ["alpha"]),
    "Sub": (lambda: _leaf(3, 2) - _leaf(2), ["alpha"]),
    "Mul": (lambda: _leaf(3, 2) * _leaf(2), ["self", "other"]),
    "Expand": (lambda: _leaf(2).expand(3, 2), []),
    "NativeLayerNorm": (
        lambda: F.layer_norm(_leaf(3, 2), (2,), _leaf(2), _leaf(2)),
        ["input", "normalized_shape", "result1", "result2"],
    ),
    "NativeBatchNorm": (
        lambda: nn.BatchNorm1d(2)(_leaf(3, 2)),
        ["input", "training", "result1", "result2", "running_mean", "running_var", "eps"],
    ),
    "NativeGroupNorm": (
        lambda: F.group_norm(_leaf(3, 4, 2), 2, _leaf(4), _leaf(4)),
        ["input", "group", "result1", "result2"],
    ),
    "MseLoss": (lambda: F.mse_loss(_leaf(3, 3), HALVES), ["self", "target", "reduction"]),
    "LogSoftmax": (lambda: F.log_softmax(_leaf(3, 3), 1), ["result", "dim"]),
    "BinaryCrossEntropyWithLogits": (
        lambda: F.binary_cross_entropy_with_logits(_leaf(3, 3), HALVES),
        ["self", "target", "weight", "pos_weight", "reduction"],
    ),
    "NllLoss": (lambda: F.nll_loss(_leaf(3, 3), CLASSES), ["reduction"]),
    "NllLoss2D": (lambda: F.nll_loss(_leaf(3, 3, 1, 1), CLASSES[:, None, None]), ["reduction"]),
    "Mean": (lambda: _leaf(3, 2).mean(0), ["dim", "self_sym_sizes"]),
    "View": (lambda: _leaf(3, 2).view(6), ["self_sym_sizes"]),
    "UnsafeView": (lambda: torch.ops.aten._unsafe_view(_leaf(3, 2), [6]), ["self_sym_sizes"]),
    "ReshapeAlias": (lambda: torch.ops.aten._reshape_alias(_leaf(3, 2), [6], [1]), ["self_sym_sizes"]),
}


@pytest.mark.parametrize("kind", NODES)
def test_nodes_have_the_names_and_the_saved_values_that_the_engine_reads(kind):
    operation, values = NODES[kind]
    node = operation().grad_fn
    version = f"torch {torch.__version__}"
    assert kind_of(node) == kind, f"{version} has another name for the node {kind}Backward0: {node.name()}"
    missing = [value for value in values if not hasattr(node, f"_saved_{value}")]
    saved = [name for name in dir(node) if name.startswith("_saved_")]
    assert not missing, f"{version} does not save {missing} in {node.name()}; it saves {saved}"


def test_all_kinds_with_a_rule_are_listed():
    assert NODES.keys() >= {kind for kind, _ in sites._STRUCTURED} | sites._FORMED.keys() | FAMILIES.keys() | _VIEWS


def _values_in(code):
    """Return the saved values that a function reads, itself or in functions that it defines."""
    inside = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    own = {name.removeprefix("_saved_") for name in code.co_names if name.startswith("_saved_")}
    return own.union(*map(_values_in, inside))


def test_all_values_that_the_rules_of_a_kind_read_are_listed():
    rules = [(kind, rule) for (kind, _), rule in sites._STRUCTURED.items()] + list(sites._FORMED.items())
    read = {(kind, value) for kind, rule in rules for value in _values_in(rule.__code__)}
    assert {("Addmm", "mat1"), ("Addmm", "beta"), ("NativeGroupNorm", "group")} <= read
    assert read <= {(kind, value) for kind, (_, values) in NODES.items() for value in values}


def test_all_values_that_the_engine_names_are_listed():
    sources = [path.read_text() for path in Path(ddn_core.engine.__file__).parent.rglob("*.py")]
    named = {name for source in sources for name in re.findall(r"\b_saved_(\w+)", source)}
    assert len(named) > 20
    assert named <= {value for _, values in NODES.values() for value in values}


def test_nodes_report_their_edges():
    weight = _leaf(3, 2)
    node = (weight.double() + 1).grad_fn
    edge = (node, 0)
    version = f"torch {torch.__version__} reports the edges of nodes in another way"
    assert (shape_of(edge), dtype_of(edge), device_of(edge), output_count(node)) == (
        weight.shape,
        torch.float64,
        weight.device,
        1,
    ), version
    leaf = node.next_functions[0][0].next_functions[0][0]
    assert kind_of(leaf) == "AccumulateGrad", version
    assert variable_of(leaf) is weight, version


def test_numbers_are_kept_apart_from_tensors():
    """A plan is used again only for the same numbers, such as the stride of a convolution."""
    images, kernels = _leaf(2, 3, 5), _leaf(4, 3, 2)
    (one, same, two) = (saved_numbers(F.conv1d(images, kernels, stride=stride).grad_fn) for stride in (1, 1, 2))
    assert one == same != two
    assert not any(isinstance(value, torch.Tensor) for value in one)
