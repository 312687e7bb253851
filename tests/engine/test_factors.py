"""Every form of a factor against the columns themselves: all products, by every contraction, for every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from ddn_core.engine.factors import (
    Columns,
    ConcatenatedColumns,
    ConvolutionFamily,
    EmbeddingFamily,
    FactorInput,
    FormedColumns,
    LinearFamily,
    ParameterLayout,
    ProductColumns,
    SummedColumns,
    TransposedConvolutionFamily,
    WeightFamily,
    mirror,
    product,
)
from tests.profiles import examples

FLOAT = torch.float64


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation with a weight: its family, its parameters, and the operation itself."""

    family: WeightFamily
    parameters: dict[str, Tensor]
    run: Callable[[Tensor, dict[str, Tensor]], Tensor]
    shape: tuple[int, ...]  # of the input of one sample
    tokens: int | None = None  # number of tokens, for an input of integers

    def inputs(self, samples):
        """Return random inputs."""
        if self.tokens is None:
            return torch.randn(samples, *self.shape, dtype=FLOAT)
        return torch.randint(self.tokens, (samples, *self.shape))


def _layer(make, shape):
    layer = make().double()
    return Operation(
        _family_of(layer),
        dict(layer.named_parameters()),
        lambda values, parameters: functional_call(layer, parameters, (values,)),
        shape,
    )


def _family_of(layer):
    if isinstance(layer, nn.Linear):
        return LinearFamily(1, layer.out_features, layer.in_features, tuple(layer.weight.shape))
    settings = (tuple(layer.weight.shape), layer.stride, layer.padding, layer.dilation, layer.groups)
    if layer.transposed:
        return TransposedConvolutionFamily(*settings, layer.output_padding)
    return ConvolutionFamily(*settings)


def _random(**shapes):
    return {name: torch.randn(shape, dtype=FLOAT, requires_grad=True) for name, shape in shapes.items()}


def _product(family, shape, run):
    """Return a product with a weight matrix, and a bias, which `run` gets as `[o]`, or `[g, 1, o]` with groups."""
    groups, outputs, _ = family.matrix_shape
    bias = (groups, 1, outputs) if groups > 1 else (outputs,)
    return Operation(
        family,
        _random(weight=family.weight_shape, bias=groups * outputs),
        lambda values, given: run(values, given["weight"]) + given["bias"].reshape(bias),
        shape,
    )


def _embedding(padding_idx=None):
    family = EmbeddingFamily(5, 3, FLOAT, padding_idx)
    return Operation(
        family,
        _random(weight=(5, 3)),
        lambda values, given: functional.embedding(values, given["weight"], padding_idx),
        (4,),
        tokens=5,
    )


OPERATIONS = {
    "linear": lambda: _layer(lambda: nn.Linear(4, 5), (4,)),
    "linear with an axis": lambda: _layer(lambda: nn.Linear(3, 2), (6, 3)),
    "linear with two axes": lambda: _layer(lambda: nn.Linear(9, 6), (2, 1, 9)),
    "matrix product": lambda: _product(LinearFamily(1, 5, 4, (4, 5), True), (4,), torch.matmul),
    "matrix product with an axis": lambda: _product(LinearFamily(1, 2, 3, (3, 2), True), (6, 3), torch.matmul),
    "product with a vector": lambda: _product(LinearFamily(1, 1, 4, (4,)), (3, 4), lambda x, w: (x @ w)[..., None]),
    "batched matrix product": lambda: _product(LinearFamily(2, 5, 4, (2, 4, 5), True), (2, 3, 4), torch.matmul),
    "batched, with one position": lambda: _product(LinearFamily(2, 3, 4, (2, 4, 3), True), (2, 1, 4), torch.matmul),
    "batched, with outputs first": lambda: _product(
        LinearFamily(3, 2, 4, (3, 2, 4)), (3, 6, 4), lambda x, w: x @ w.transpose(1, 2)
    ),
    "batched, with one group": lambda: _product(LinearFamily(1, 3, 2, (1, 2, 3), True), (1, 4, 2), torch.matmul),
    "scale": lambda: _product(LinearFamily(4, 1, 1, (4,)), (4, 3, 1), lambda x, w: x * w[:, None, None]),
    "convolution": lambda: _layer(
        lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2)), (2, 4, 5)
    ),
    "grouped convolution": lambda: _layer(lambda: nn.Conv1d(4, 6, 2, groups=2), (4, 5)),
    "convolution of three axes": lambda: _layer(lambda: nn.Conv3d(1, 2, 2, padding=1), (1, 2, 3, 2)),
    "convolution to one pixel": lambda: _layer(lambda: nn.Conv2d(3, 2, 3), (3, 3, 3)),
    "transposed": lambda: _layer(
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 3)
    ),
    "embedding": _embedding,
    "embedding with padding": lambda: _embedding(padding_idx=2),
}
NAMES = (["weight", "bias"], ["weight"], ["bias"])
ROLES = [
    pytest.param(name, names, id=f"{name}-{'-'.join(names)}")
    for name in OPERATIONS
    for names in (NAMES if "embedding" not in name else [["weight"]])
]


def _columns(operation, inputs, per_sample, names, seed=0):
    """Return columns by family, and the same by autograd."""
    torch.manual_seed(seed)
    family, given = operation.family, operation.parameters
    outputs = operation.run(inputs, given)
    root = torch.randn(len(inputs), per_sample, *outputs.shape[1:], dtype=FLOAT)
    expected = []
    for n in range(len(inputs)):
        for a in range(per_sample):
            parameters = [given[name] for name in names]
            gradients = torch.autograd.grad(operation.run(inputs[n : n + 1], given), parameters, root[n : n + 1, a])
            expected.append(torch.cat([gradient.flatten() for gradient in gradients]))
    arranged = family.root(root)
    arranged = arranged if "weight" in names else arranged.sum(-1, keepdim=True)
    factor_input = FactorInput(family, inputs, tuple(names))
    return ProductColumns(arranged, factor_input, slice_elements=100), torch.stack(expected)


def _vectors(parts):
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _formed(columns):
    return _vectors(columns.layout.split(columns.formed()))


def _gram(columns):
    gram = torch.zeros(columns.count, columns.count, dtype=FLOAT)
    vector, products = (
        torch.randn(1, columns.size, dtype=FLOAT),
        torch.zeros(columns.count, dtype=FLOAT),
    )
    columns.accumulate(gram, columns.layout.split(vector), products)
    torch.testing.assert_close(products, columns.formed() @ vector[0])
    return mirror(gram)


@pytest.mark.parametrize("contraction", ["counted", "pairs", "formed"])
@pytest.mark.parametrize(("name", "names"), ROLES)
def test_products(name, names, contraction, monkeypatch):
    torch.manual_seed(0)
    operation, samples, per_sample = OPERATIONS[name](), 5, 3
    if contraction != "counted":
        only = (lambda *sizes: ("outer" if sizes[-1] == 1 else "pairs", 0.0)) if contraction == "pairs" else None
        monkeypatch.setattr(product, "cheapest_contraction", only or (lambda *_: ("formed", 0.0)))
    monkeypatch.setattr("ddn_core.engine.factors.columns.BLOCK_ROWS", 4)
    columns, expected = _columns(operation, operation.inputs(samples), per_sample, names)
    others, their_expected = _columns(operation, operation.inputs(2), 1, names, seed=1)

    torch.testing.assert_close(_formed(columns), expected)
    torch.testing.assert_close(_gram(columns), expected @ expected.T)
    torch.testing.assert_close(columns.inner(others), expected @ their_expected.T)
    formed = FormedColumns(others.formed().reshape(2, 1, -1), others.layout)
    torch.testing.assert_close(columns.inner(formed), expected @ their_expected.T)
    torch.testing.assert_close(formed.inner(columns), their_expected @ expected.T)
    for count in (1, 2, 5):  # fewer and more than columns of a sample
        weights = torch.randn(columns.count, count, dtype=FLOAT)
        torch.testing.assert_close(_vectors(columns.combine(weights)), weights.T @ expected)
        vectors = torch.randn(count, columns.size, dtype=FLOAT)
        parts = columns.layout.split(vectors)
        torch.testing.assert_close(columns.project(parts), expected @ _vectors(parts).T)
        torch.testing.assert_close(columns.layout.join(parts), vectors)
    some = [4, 1]
    rows = [n * per_sample + a for n in some for a in range(per_sample)]
    torch.testing.assert_close(_formed(columns.select(some)), expected[rows])


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_response_to_a_probe_is_its_product_with_the_features(name):
    torch.manual_seed(0)
    operation = OPERATIONS[name]()
    values = operation.inputs(3)
    probe, response = operation.family.probe(values)
    assert probe.shape == operation.family.matrix_shape[::2]
    features = operation.family.features_of(values)
    torch.testing.assert_close(response, (features @ probe[..., None])[..., 0])


@pytest.mark.parametrize("name", OPERATIONS)
def test_weights_and_matrices_are_each_other(name):
    torch.manual_seed(0)
    operation = OPERATIONS[name]()
    weights = torch.randn(2, *operation.parameters["weight"].shape, dtype=FLOAT)
    matrices = operation.family.to_matrices(weights)
    assert matrices.shape == (2, *operation.family.matrix_shape)
    torch.testing.assert_close(operation.family.to_weights(matrices), weights, rtol=0, atol=0)


def test_the_padding_has_zero_features():
    values = torch.tensor([[2, 0, 2, 4]])
    features = EmbeddingFamily(5, 3, FLOAT, padding_idx=2).features_of(values)
    assert features.dtype == FLOAT
    assert features[0, 0].tolist() == [[0] * 5, [1, 0, 0, 0, 0], [0] * 5, [0, 0, 0, 0, 1]]


@pytest.mark.parametrize("name", ["linear", "convolution", "scale"])
def test_concatenated_batches_are_one_batch(name):
    operation = OPERATIONS[name]()
    parts = [
        _columns(operation, operation.inputs(samples), 2, ["weight", "bias"], seed=samples)[0] for samples in (3, 1, 4)
    ]
    parts[1] = FormedColumns(parts[1].formed().reshape(1, 2, -1), parts[1].layout)
    whole, rows = ConcatenatedColumns(parts), torch.cat([part.formed() for part in parts])
    torch.testing.assert_close(whole.formed(), rows)
    torch.testing.assert_close(_gram(whole), rows @ rows.T)
    torch.testing.assert_close(whole.inner(parts[0]), rows @ parts[0].formed().T)
    weights = torch.randn(16, 3, dtype=FLOAT)
    torch.testing.assert_close(whole.layout.join(whole.combine(weights)), weights.T @ rows)
    torch.testing.assert_close(whole.select([1, 3, 6]).formed(), rows[[2, 3, 6, 7, 12, 13]])


def test_columns_of_a_wide_linear_layer_are_never_formed(monkeypatch):
    """Without a sequence axis the inner products come from two small Gram matrices."""
    operation = _layer(lambda: nn.Linear(50, 60), (50,))
    columns, _ = _columns(operation, operation.inputs(4), 3, ["weight", "bias"])
    monkeypatch.setattr(product, "form", lambda *_: pytest.fail("the columns were formed"))
    assert columns.contraction == "outer"
    columns.accumulate(torch.zeros(12, 12, dtype=FLOAT), None, None)
    weight, bias = columns.combine(torch.rand(12, 2, dtype=FLOAT))
    assert (weight.shape, bias.shape) == ((2, 60, 50), (2, 60))
    assert columns.project((weight, bias)).shape == (12, 2)


@examples(25)
@given(
    samples=st.integers(1, 40), per_sample=st.integers(1, 12), block_rows=st.integers(1, 50), seed=st.integers(0, 2**16)
)
def test_upper_blocks_and_their_mirror_are_the_whole(samples, per_sample, block_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(samples, per_sample, 7, dtype=FLOAT, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddn_core.engine.factors.columns.BLOCK_ROWS", block_rows)
        gram = _gram(FormedColumns(values, ParameterLayout(torch.Size([7]))))
    torch.testing.assert_close(gram, values.flatten(0, 1) @ values.flatten(0, 1).T)


@pytest.mark.parametrize(
    "name", ["grouped convolution", "matrix product", "batched matrix product", "embedding with padding"]
)
def test_a_sum_that_is_off_by_a_little_anywhere_is_noticed(name):
    operation = OPERATIONS[name]()
    columns, expected = _columns(operation, operation.inputs(5), 1, list(operation.parameters))
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
    family = LinearFamily(1, 6, width, (6, width))
    probe, _ = family.probe(torch.rand(1, width))
    inputs = (-product.BIAS_PROBE * probe[0] / probe[0].square().sum()).expand(50, width).contiguous()
    root = torch.randn(50, 1, 6) + 3
    columns = ProductColumns(family.root(root), FactorInput(family, inputs, ("weight", "bias")))
    weight, bias = (root[:, 0].T @ inputs)[None], root[:, 0].sum(0)[None]
    deviation, scale = columns.check_sum((weight, bias))
    bound = torch.finfo(torch.float32).eps ** 0.5
    assert float(deviation) <= bound * float(scale)
    deviation, scale = columns.check_sum((weight, 1.001 * bias))
    assert float(deviation) > bound * float(scale)


SHAPE = torch.Size([4, 3])
USES = {
    "linear": lambda weight, shape: _use(weight, LinearFamily(1, 4, 3, SHAPE), (*shape, 3), lambda x, w: x @ w.T),
    "transposed": lambda weight, shape: _use(weight, LinearFamily(1, 3, 4, SHAPE, True), (*shape, 4), torch.matmul),
    "scale": lambda weight, shape: _use(
        weight, LinearFamily(12, 1, 1, SHAPE), (12, *shape, 1), lambda x, w: x * w.reshape(12, *[1] * len(shape), 1)
    ),
    "embedding": lambda weight, shape: _use(weight, EmbeddingFamily(4, 3, FLOAT), shape or (1,), functional.embedding),
    "padded": lambda weight, shape: _use(
        weight, EmbeddingFamily(4, 3, FLOAT, 1), shape or (1,), lambda x, w: functional.embedding(x, w, padding_idx=1)
    ),
}
"""Uses of one parameter `[4, 3]`, with the given axes of positions."""


def _use(weight, family, shape, run):
    tokens = 4 if isinstance(family, EmbeddingFamily) else None
    return Operation(family, {"weight": weight}, lambda values, given: run(values, given["weight"]), shape, tokens)


def _sum(uses, samples, per_sample, forms, seed):
    """Return the summed columns of some uses of one parameter, of which some are formed, and the same by autograd."""
    weight = torch.randn(SHAPE, dtype=FLOAT, requires_grad=True)
    summands, total = [], torch.zeros(samples * per_sample, 12, dtype=FLOAT)
    for number, ((name, shape), formed) in enumerate(zip(uses, forms, strict=True)):
        operation = USES[name](weight, shape)
        torch.manual_seed(seed + number)
        columns, expected = _columns(operation, operation.inputs(samples), per_sample, ["weight"], seed + number)
        total += expected
        summands.append(_as_formed(columns) if formed else columns)
    return SummedColumns(summands, SHAPE), total


def _as_formed(columns: Columns) -> FormedColumns:
    return FormedColumns(columns.formed().reshape(columns.samples, columns.per_sample, -1), columns.layout)


@given(
    uses=st.lists(
        st.tuples(st.sampled_from(sorted(USES)), st.sampled_from([(), (1,), (3,), (2, 2)])), min_size=1, max_size=4
    ),
    samples=st.integers(1, 6),
    per_sample=st.integers(1, 4),
    data=st.data(),
    seed=st.integers(0, 2**16),
)
def test_summed_columns_are_the_sum(uses, samples, per_sample, data, seed):
    torch.manual_seed(seed)
    forms = data.draw(st.lists(st.booleans(), min_size=len(uses), max_size=len(uses)))
    columns, expected = _sum(uses, samples, per_sample, forms, seed)
    assert (columns.samples, columns.per_sample, columns.size) == (samples, per_sample, 12)
    torch.testing.assert_close(columns.formed(), expected)
    torch.testing.assert_close(_gram(columns), expected @ expected.T)
    for count in (1, 5):  # fewer and more than columns of a sample
        weights = torch.randn(columns.count, count, dtype=FLOAT)
        (combined,) = columns.combine(weights)
        assert combined.shape == (count, *SHAPE)
        torch.testing.assert_close(combined.flatten(1), weights.T @ expected)
        torch.testing.assert_close(columns.project((combined,)), expected @ combined.flatten(1).T)
    some = data.draw(st.lists(st.integers(0, samples - 1), min_size=1, max_size=4))
    rows = expected.reshape(samples, per_sample, -1)
    torch.testing.assert_close(columns.select(some).formed(), rows[some].flatten(0, 1))
    coefficients = torch.randn(samples, per_sample, dtype=FLOAT)
    contracted = columns.contracted(coefficients)
    assert contracted.per_sample == 1
    torch.testing.assert_close(contracted.formed(), (coefficients[:, None] @ rows)[:, 0])


@examples(25)
@given(
    first=st.lists(st.sampled_from(sorted(USES)), min_size=1, max_size=3),
    second=st.lists(st.sampled_from(sorted(USES)), min_size=1, max_size=3),
    shape=st.sampled_from([(), (3,)]),
    seed=st.integers(0, 2**16),
)
def test_inner_products_of_every_pair_of_kinds(first, second, shape, seed):
    """Products, formed columns, sums and concatenations of one parameter, whatever the order of their entries."""
    torch.manual_seed(seed)
    kinds: list[tuple[Columns, Tensor]] = []
    for uses, samples, per_sample in ((first, 3, 2), (second, 5, 1)):
        whole, total = _sum([(use, shape) for use in uses], samples, per_sample, [False] * len(uses), seed)
        one, alone = _sum([(uses[0], shape)], samples, per_sample, [False], seed)
        kinds += [(whole, total), (one._summands[0], alone), (_as_formed(one._summands[0]), alone)]
        both = ConcatenatedColumns([one._summands[0], whole, _as_formed(whole)])
        rows = torch.cat([alone, total, total])
        torch.testing.assert_close(_formed(both), rows)
        torch.testing.assert_close(_gram_of_rows(both), rows @ rows.T)
        kinds.append((both, rows))
    for columns, expected in kinds:
        for others, theirs in kinds:
            torch.testing.assert_close(columns.inner(others), expected @ theirs.T)


def _gram_of_rows(columns):
    gram = torch.zeros(columns.count, columns.count, dtype=FLOAT)
    columns.accumulate(gram, None, None)
    return mirror(gram)
