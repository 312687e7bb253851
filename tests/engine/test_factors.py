"""Every form of a factor against the columns themselves: all products, by every contraction, for every family."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ddn_core.engine.factors import (
    FAMILIES,
    FormedColumns,
    LayerInput,
    ParameterLayout,
    ProductColumns,
    mirror,
    product,
)
from ddn_core.engine.factors.concatenated import ConcatenatedColumns
from tests.profiles import examples

LAYERS = {
    "linear": (lambda: nn.Linear(4, 5), (4,)),
    "linear with an axis": (lambda: nn.Linear(3, 2), (6, 3)),
    "linear with two axes": (lambda: nn.Linear(9, 6), (2, 1, 9)),
    "convolution": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2)), (2, 4, 5)),
    "grouped convolution": (lambda: nn.Conv1d(4, 6, 2, groups=2), (4, 5)),
    "convolution of three axes": (lambda: nn.Conv3d(1, 2, 2, padding=1), (1, 2, 3, 2)),
    "convolution to one pixel": (lambda: nn.Conv2d(3, 2, 3), (3, 3, 3)),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 3)),
    "batch norm": (lambda: nn.BatchNorm2d(3).eval(), (3, 2, 2)),
    "batch norm without axes": (lambda: nn.BatchNorm1d(4).eval(), (4,)),
}


def _columns(layer, inputs, per_sample, names, seed=0):
    """Return columns by family, the same by autograd, and their layout."""
    torch.manual_seed(seed)
    family = FAMILIES[type(layer)]
    outputs = layer(inputs)
    root = torch.randn(len(inputs), per_sample, *outputs.shape[1:], dtype=torch.float64)
    expected = []
    for n in range(len(inputs)):
        for a in range(per_sample):
            parameters = [getattr(layer, name) for name in names]
            gradients = torch.autograd.grad(layer(inputs[n : n + 1]), parameters, root[n : n + 1, a])
            expected.append(torch.cat([gradient.flatten() for gradient in gradients]))
    arranged = family.root(layer, root)
    arranged = arranged if "weight" in names else arranged.sum(-1, keepdim=True)
    layer_input = LayerInput(layer, family, inputs, tuple(names))
    return ProductColumns(arranged, layer_input, slice_elements=100), torch.stack(expected)


def _vectors(parts):
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _formed(columns):
    return _vectors(columns.layout.split(columns.formed()))


def _gram(columns):
    gram = torch.zeros(columns.count, columns.count, dtype=torch.float64)
    vector, products = (
        torch.randn(1, columns.size, dtype=torch.float64),
        torch.zeros(columns.count, dtype=torch.float64),
    )
    columns.accumulate(gram, columns.layout.split(vector), products)
    torch.testing.assert_close(products, columns.formed() @ vector[0])
    return mirror(gram)


@pytest.mark.parametrize("contraction", ["counted", "pairs", "formed"])
@pytest.mark.parametrize("names", [["weight", "bias"], ["weight"], ["bias"]], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_products(name, names, contraction, monkeypatch):
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, samples, per_sample = make().double(), 5, 3
    if contraction != "counted":
        only = (lambda *sizes: ("outer" if sizes[-1] == 1 else "pairs", 0.0)) if contraction == "pairs" else None
        monkeypatch.setattr(product, "cheapest_contraction", only or (lambda *_: ("formed", 0.0)))
    monkeypatch.setattr("ddn_core.engine.factors.columns.BLOCK_ROWS", 4)
    columns, expected = _columns(layer, torch.randn(samples, *shape, dtype=torch.float64), per_sample, names)
    others, their_expected = _columns(layer, torch.randn(2, *shape, dtype=torch.float64), 1, names, seed=1)

    torch.testing.assert_close(_formed(columns), expected)
    torch.testing.assert_close(_gram(columns), expected @ expected.T)
    torch.testing.assert_close(columns.inner(others), expected @ their_expected.T)
    formed = FormedColumns(others.formed().reshape(2, 1, -1), others.layout)
    torch.testing.assert_close(columns.inner(formed), expected @ their_expected.T)
    torch.testing.assert_close(formed.inner(columns), their_expected @ expected.T)
    for count in (1, 2, 5):  # fewer and more than columns of a sample
        weights = torch.randn(columns.count, count, dtype=torch.float64)
        torch.testing.assert_close(_vectors(columns.combine(weights)), weights.T @ expected)
        vectors = torch.randn(count, columns.size, dtype=torch.float64)
        parts = columns.layout.split(vectors)
        torch.testing.assert_close(columns.project(parts), expected @ _vectors(parts).T)
        torch.testing.assert_close(columns.layout.join(parts), vectors)
    some = [4, 1]
    rows = [n * per_sample + a for n in some for a in range(per_sample)]
    torch.testing.assert_close(_formed(columns.select(some)), expected[rows])


@pytest.mark.parametrize("name", ["linear", "convolution", "batch norm"])
def test_concatenated_batches_are_one_batch(name):
    make, shape = LAYERS[name]
    layer = make().double()
    parts = [
        _columns(layer, torch.randn(samples, *shape, dtype=torch.float64), 2, ["weight", "bias"], seed=samples)[0]
        for samples in (3, 1, 4)
    ]
    parts[1] = FormedColumns(parts[1].formed().reshape(1, 2, -1), parts[1].layout)
    whole, rows = ConcatenatedColumns(parts), torch.cat([part.formed() for part in parts])
    torch.testing.assert_close(whole.formed(), rows)
    torch.testing.assert_close(_gram(whole), rows @ rows.T)
    torch.testing.assert_close(whole.inner(parts[0]), rows @ parts[0].formed().T)
    weights = torch.randn(16, 3, dtype=torch.float64)
    torch.testing.assert_close(whole.layout.join(whole.combine(weights)), weights.T @ rows)
    torch.testing.assert_close(whole.select([1, 3, 6]).formed(), rows[[2, 3, 6, 7, 12, 13]])


def test_columns_of_a_wide_linear_layer_are_never_formed(monkeypatch):
    """Without a sequence axis the inner products come from two small Gram matrices."""
    columns, _ = _columns(nn.Linear(50, 60).double(), torch.rand(4, 50, dtype=torch.float64), 3, ["weight", "bias"])
    monkeypatch.setattr(product, "form", lambda *_: pytest.fail("the columns were formed"))
    assert columns.contraction == "outer"
    columns.accumulate(torch.zeros(12, 12, dtype=torch.float64), None, None)
    weight, bias = columns.combine(torch.rand(12, 2, dtype=torch.float64))
    assert (weight.shape, bias.shape) == ((2, 60, 50), (2, 60))
    assert columns.project((weight, bias)).shape == (12, 2)


@examples(25)
@given(
    samples=st.integers(1, 40), per_sample=st.integers(1, 12), block_rows=st.integers(1, 50), seed=st.integers(0, 2**16)
)
def test_upper_blocks_and_their_mirror_are_the_whole(samples, per_sample, block_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(samples, per_sample, 7, dtype=torch.float64, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddn_core.engine.factors.columns.BLOCK_ROWS", block_rows)
        gram = _gram(FormedColumns(values, ParameterLayout(torch.Size([7]))))
    torch.testing.assert_close(gram, values.flatten(0, 1) @ values.flatten(0, 1).T)


def test_a_sum_that_is_off_by_a_little_anywhere_is_noticed():
    columns, expected = _columns(
        nn.Conv1d(4, 6, 2).double(), torch.rand(5, 4, 5, dtype=torch.float64), 1, ["weight", "bias"]
    )
    total = columns.formed().sum(0, keepdim=True)
    deviation, scale = columns.check_sum(columns.layout.split(total))
    assert float(deviation) <= 1e-12 * float(scale)
    for entry in range(columns.size):
        wrong = total.clone()
        wrong[0, entry] += 0.01 * expected.sum(0).norm()
        deviation, scale = columns.check_sum(columns.layout.split(wrong))
        assert float(deviation) > 1e-8 * float(scale)


@pytest.mark.parametrize("width", [8, 200])
def test_a_sum_is_that_of_its_columns_though_the_probe_hardly_sees_the_input(width):
    """As where all units are saturated: an input, the same for all samples, to which probe and bias add up to zero."""
    family, layer = FAMILIES[nn.Linear], nn.Linear(width, 6)
    probe, _ = family.probe(layer, torch.rand(1, width), width)
    inputs = (-product.BIAS_PROBE * probe[0] / probe[0].square().sum()).expand(50, width).contiguous()
    root = torch.randn(50, 1, 6) + 3
    columns = ProductColumns(family.root(layer, root), LayerInput(layer, family, inputs, ("weight", "bias")))
    weight, bias = (root[:, 0].T @ inputs)[None], root[:, 0].sum(0)[None]
    deviation, scale = columns.check_sum((weight, bias))
    bound = torch.finfo(torch.float32).eps ** 0.5
    assert float(deviation) <= bound * float(scale)
    deviation, scale = columns.check_sum((weight, 1.001 * bias))
    assert float(deviation) > bound * float(scale)
