"""Where the samples of a batch are: the arithmetic of a sample axis, the layout of each edge, and plans that are kept."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton
from ddn_core.engine import PlanStore
from ddn_core.engine.capture import columns
from ddn_core.engine.capture import layout as layout_module
from ddn_core.engine.capture.batch import find_sample_axis
from ddn_core.engine.capture.graph import ModelGraph, Reach
from ddn_core.engine.capture.layout import layouts_of, powers, traced_layouts
from ddn_core.engine.sample_axis import SampleAxis
from ddn_core.errors import ArgumentError, CurvatureError

N, FLOAT = 4, torch.float64


# The arithmetic of a sample axis


def _numbered(*shape):
    """Return a tensor whose entries are all different, and none of which is zero."""
    return torch.arange(1, math.prod(shape) + 1, dtype=FLOAT).reshape(shape)


@st.composite
def axes(draw):
    """Return a sample axis, and a tensor that has it."""
    samples, positions = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    before, after = (draw(st.lists(st.integers(1, 3), max_size=2)) for _ in range(2))
    layout = SampleAxis(samples, len(before), draw(st.booleans()))
    return layout, _numbered(*before, samples * positions, *after)


def _sample_of(layout, place, length):
    """Return the number of the sample at a place along the axis, by counting."""
    positions = length // layout.samples
    return place // positions if layout.is_major else place % layout.samples


@given(axes(), st.lists(st.integers(1, 3), max_size=2))
def test_join_is_the_inverse_of_split(given, leading):
    layout, like = given
    tensor = _numbered(*leading, *like.shape)
    apart = layout.split(tensor, len(leading))
    length = like.shape[layout.axis]
    rest = [*like.shape[: layout.axis], length // layout.samples, *like.shape[layout.axis + 1 :]]
    assert list(apart.shape) == [layout.samples, *leading, *rest]
    assert torch.equal(layout.join(apart, len(leading)), tensor)
    assert layout.elements(like.shape) * layout.samples == like.numel()


@given(axes())
def test_split_brings_each_sample_to_its_number(given):
    layout, like = given
    length = like.shape[layout.axis]
    owners = torch.tensor([_sample_of(layout, place, length) for place in range(length)])
    owners = owners.reshape(-1, *[1] * (like.dim() - layout.axis - 1)).expand_as(like)
    expected = torch.arange(layout.samples).reshape(-1, *[1] * like.dim())
    apart = layout.split(owners)
    assert torch.equal(apart, expected.expand_as(apart))


@given(axes(), st.integers(1, 3))
def test_spread_and_mask_reach_the_entries_of_a_sample(given, count):
    layout, like = given
    values = _numbered(layout.samples)
    spread = layout.spread(values, like.shape)
    apart = layout.split(spread.expand_as(like))
    assert torch.equal(apart, values.reshape(-1, *[1] * like.dim()).expand_as(apart))
    columns = _numbered(count, *like.shape)
    masked = layout.mask(columns)
    assert masked.shape == (layout.samples, *columns.shape)
    assert torch.equal(masked.sum(0), columns)
    for sample in range(layout.samples):
        unit = (torch.arange(layout.samples) == sample).to(FLOAT)
        assert torch.equal(masked[sample], columns * layout.spread(unit, like.shape))


@given(axes())
def test_separate_gives_a_column_for_each_element_of_a_sample(given):
    layout, like = given
    columns = layout.separate(like)
    elements = layout.elements(like.shape)
    assert columns.shape == (elements, *like.shape)
    assert torch.equal(columns.sum(0), like)
    apart = layout.split(columns, 1).flatten(2)  # [N, C, C]
    assert torch.equal(apart, torch.diag_embed(layout.split(like).flatten(1)))


@given(st.integers(1, 200), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_powers_are_exact_and_finite_and_differ_between_neighbours(count, dtype):
    found = powers(count, torch.empty(0, dtype=dtype))
    assert found.dtype == dtype
    assert bool(torch.isfinite(found).all())
    assert bool((torch.frexp(found.double()).mantissa == 0.5).all())
    assert bool((found[1:] != found[:-1]).all())


# The layout of each edge


def _graph_of(evaluate, *parameters):
    """Return the graph of a function's output."""
    edge = get_gradient_edge(evaluate())
    reach = Reach({id(parameter) for parameter in parameters})
    reach.visit(edge.node)
    return ModelGraph.of(edge, reach)


def _graph(evaluate, *parameters):
    """Return the graph of a function's output, the layouts of its edges, and whether these are certain."""
    graph = _graph_of(evaluate, *parameters)
    return graph, *layouts_of(graph, find_sample_axis(graph.output, N))


def _found(evaluate, *parameters):
    """Return the layouts of the edges by the kind of the node that they belong to, from the output down."""
    graph, layouts, _ = _graph(evaluate, *parameters)
    return [(graph.kinds[edge[0]], layouts[edge]) for edge in graph.shapes]


def _random(*shape):
    return torch.randn(*shape, dtype=FLOAT)


def _leaf(*shape):
    return _random(*shape).requires_grad_()


MAJOR = SampleAxis(N, 0)


def test_samples_along_the_first_axis():
    weight, bias, head = _leaf(5, 3), _leaf(5), _leaf(2, 5)
    data = _random(N, 3)
    found = _found(lambda: torch.tanh(data @ weight.T + bias) @ head.T, weight, bias, head)
    layouts = dict(found)
    assert layouts == {"Mm": MAJOR, "Tanh": MAJOR, "Add": MAJOR, "Permute": None, "AccumulateGrad": None}


def test_positions_of_each_sample_side_by_side():
    """`[N, T, d]` is flattened to `[N · T, d]`, in which the samples are the major index."""
    weight, data = _leaf(3, 2), _random(N, 5, 3)
    found = _found(lambda: (torch.tanh(data.reshape(-1, 3) @ weight)).reshape(N, -1), weight)
    assert dict(found) == {"View": MAJOR, "Tanh": MAJOR, "Mm": MAJOR, "AccumulateGrad": None}
    graph, layouts, _ = _graph(lambda: (torch.tanh(data.reshape(-1, 3) @ weight)).reshape(N, -1), weight)
    shapes = {graph.kinds[edge[0]]: graph.shapes[edge] for edge, layout in layouts.items() if layout is not None}
    assert shapes["Mm"] == (N * 5, 2)


@pytest.mark.parametrize("positions", [2, 5, 8])
def test_positions_of_all_samples_one_after_the_other(positions):
    """`[T, N, d]` is flattened to `[T · N, d]`, in which the samples are the minor index."""
    weight, data = _leaf(3, 2), _random(positions, N, 3)

    def evaluate():
        hidden = torch.tanh(data.reshape(-1, 3) @ weight).reshape(positions, N, 2)
        return hidden.transpose(0, 1).flatten(1)

    layouts = dict(_found(evaluate, weight))
    assert layouts["Transpose"] == MAJOR
    assert layouts["Mm"] == SampleAxis(N, 0, is_major=False)


def test_samples_along_another_axis():
    weight, data = _leaf(2, 3), _random(3, N)
    assert dict(_found(lambda: torch.tanh(weight @ data).T, weight))["Mm"] == SampleAxis(N, 1)


MIXTURES = {
    "a mean over the batch": lambda hidden: hidden - hidden.mean(0),
    "a permutation": lambda hidden: hidden[torch.tensor([2, 0, 3, 1])],
    "a product with a matrix": lambda hidden: torch.ones(N, N, dtype=FLOAT).triu() @ hidden,
    "a softmax over the batch": lambda hidden: hidden.softmax(0),
    "a sum of all": lambda hidden: hidden + hidden.sum(),
    "two samples exchanged": lambda hidden: hidden[torch.tensor([1, 0, 2, 3])],
}


@pytest.mark.parametrize("name", MIXTURES)
def test_what_mixes_samples_is_shared(name):
    weight, head, data = _leaf(3, 4), _leaf(4, 2), _random(N, 3)
    mix = MIXTURES[name]
    graph, layouts, _ = _graph(lambda: mix(torch.tanh(data @ weight)) @ head, weight, head)
    below = [layouts[edge] for edge in graph.shapes if graph.kinds[edge[0]] in ("Tanh", "AccumulateGrad")]
    assert below == [None] * len(below)
    assert layouts[graph.output] == MAJOR


def test_an_edge_that_no_gradient_reaches_is_uncertain():
    weight, gate, data = _leaf(3, 2), torch.zeros(2, dtype=FLOAT), _random(N, 3)
    _, layouts, certain = _graph(lambda: gate * (data @ weight), weight)
    assert not certain
    assert MAJOR in layouts.values()
    assert _graph(lambda: (gate + 1) * (data @ weight), weight)[2]


def test_a_probe_of_a_large_graph_holds_a_quarter_of_its_gradients(monkeypatch):
    """Counted in bytes; gradients of parameters, which tell nothing of samples, are not computed."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8) for _ in range(6)]
    model = nn.Sequential(nn.Linear(2, 16), nn.Linear(16, 8), *layers, nn.ReLU(), nn.Linear(8, 3)).double()
    inputs = _random(N, 2)
    graph = _graph_of(lambda: model(inputs), *model.parameters())
    samples = find_sample_axis(graph.output, N)
    held, earlier, probe = [], [], layout_module._probe

    def note(*arguments):
        assert not any(reference() is not None for reference in earlier)
        found = probe(*arguments)
        gradients = [one for one in (*found[0], *found[1]) if one is not None]
        held.append(sum(one.nbytes for one in gradients))
        earlier[:] = map(weakref.ref, gradients)
        return found

    monkeypatch.setattr(layout_module, "_probe", note)
    expected = layouts_of(graph, samples)
    edge = 2 * N * 8 * 8
    assert held == [10 * edge]  # that of the first layer is twice as wide
    for most, parts in ((10 * N * 8, [10]), (10 * N * 8 - 1, [8, 2]), (4 * N * 8, [4, 4, 2]), (0, [2, 2, 2, 2, 2])):
        held.clear()
        monkeypatch.setattr(layout_module, "PROBED_ELEMENTS", most)
        assert layouts_of(graph, samples) == expected
        assert held == [part * edge for part in parts]


def test_shapes_of_two_batches_show_the_axis_without_data():
    """As `ddn estimate` finds it on the meta device; a mixture is not noticed there."""
    weight, head = _leaf(3, 4), _leaf(4, 2)
    graphs = [
        _graph_of(lambda size=size: torch.tanh(_random(size, 3) @ weight) @ head, weight, head) for size in (N, 2 * N)
    ]
    found = traced_layouts(*graphs, MAJOR)
    assert {graphs[0].kinds[edge[0]]: layout for edge, layout in found.items()} == {
        "Mm": MAJOR,
        "Tanh": MAJOR,
        "AccumulateGrad": None,
    }


# The axis of the samples at the output


def _axis(output, samples=None):
    edge = get_gradient_edge(output)
    return find_sample_axis((edge.node, edge.output_nr), samples)


def test_the_axis_of_the_output():
    logits = _leaf(N, 5, 3) * 1
    assert _axis(logits) == MAJOR
    assert _axis(logits.reshape(-1, 3)) == MAJOR  # five positions of each of four samples
    assert _axis(logits.flatten(0, 1), samples=2) == SampleAxis(2)
    assert _axis(_leaf(N * 5, 3) * 1) == SampleAxis(N * 5)
    assert _axis(_leaf(5, N, 3).transpose(0, 1).reshape(-1, 3), samples=N) == MAJOR
    minor = (_leaf(5, N, 3) * 1).view(-1, 3)
    assert _axis(minor, samples=N) == SampleAxis(N, 0, is_major=False)


def test_outputs_without_samples():
    with pytest.raises(CurvatureError, match="a model output without an axis"):
        _axis(_leaf(3).sum())
    with pytest.raises(CurvatureError, match="an empty batch"):
        _axis(_leaf(0, 3) * 1)
    with pytest.raises(ArgumentError, match=r"samples = 3 does not fit a model output of shape \[4, 3\]"):
        _axis(_leaf(N, 3) * 1, samples=3)


# Plans that are kept


class Ordered(nn.Module):
    """Sorts its samples by an index that is no part of the graph's signature."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.order = nn.Linear(3, 5), nn.Linear(5, 2), torch.arange(N)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x))[self.order])


def _move(model, inputs, targets, optimizer=None):
    before = parameters_to_vector(model.parameters()).detach().clone()
    optimizer = optimizer or DirectionalDampedNewton(model.named_parameters(), damping=1.0)
    optimizer.zero_grad()
    optimizer.backward(nn.functional.mse_loss(model(inputs), targets))
    optimizer.step()
    return parameters_to_vector(model.parameters()).detach() - before


def _same_moves(model, changes, monkeypatch):
    """Compare an optimizer that keeps its plans with one that plans anew, while the model changes between passes.

    Yields:
        Number of plans that the first optimizer has made in each pass.
    """
    kept, keep = [], PlanStore.keep

    def note(store, signature, plan):
        kept.append(signature)
        keep(store, signature, plan)

    monkeypatch.setattr(PlanStore, "keep", note)
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=1.0)
    inputs, targets = _random(N, 3), _random(N, 2)
    for change in changes:
        change(model)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        with monkeypatch.context() as context:
            context.setattr(PlanStore, "get", lambda self, signature: None)
            expected = _move(model, inputs, targets)
        model.load_state_dict(start)
        kept.clear()
        torch.testing.assert_close(_move(model, inputs, targets, optimizer), expected, rtol=1e-9, atol=1e-12)
        yield len(kept)


def _reorder(*order):
    return lambda model: setattr(model, "order", torch.tensor(order))


@pytest.mark.parametrize("batched", [columns.BATCHED_ELEMENTS, 0], ids=["batched", "one by one"])
def test_an_index_that_begins_to_permute_samples(batched, monkeypatch):
    """The plan without a permutation is kept for the same signature; it is noticed not to fit, and made anew."""
    monkeypatch.setattr(columns, "BATCHED_ELEMENTS", batched)
    model = Ordered().double()
    identity, other = _reorder(0, 1, 2, 3), _reorder(1, 0, 2, 3)
    anew = list(_same_moves(model, [identity, identity, identity, other, other, identity], monkeypatch))
    assert anew[:4] == [1, 0, 0, 1]


def test_batch_norm_that_changes_its_mode(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).double()
    evaluate, train = nn.Module.eval, nn.Module.train
    anew = list(_same_moves(model, [evaluate, evaluate, train, train, evaluate], monkeypatch))
    assert anew == [1, 0, 1, 0, 0]


def test_a_gate_that_opens(monkeypatch):
    """The layouts behind a gate of zero are guesses, and the plan is not kept."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.branch, self.last = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)
            self.gate = 0.0

        def forward(self, x):
            hidden = torch.tanh(self.first(x))
            return self.last(hidden + self.gate * (self.branch(hidden) - self.branch(hidden).mean(0)))

    shut, half = (lambda model, value=value: setattr(model, "gate", value) for value in (0.0, 0.5))
    anew = list(_same_moves(Gated().double(), [shut, shut, half, half], monkeypatch))
    assert anew[-1] == 0
    assert anew[2] == 1


def test_the_plan_that_was_not_used_for_longest_is_dropped(monkeypatch):
    monkeypatch.setattr("ddn_core.engine.capture.plan.KEPT", 2)
    store = PlanStore()
    for name in ("a", "b"):
        store.keep(name, name)
    assert store.get("a") == "a"
    store.keep("c", "c")
    assert [store.get(name) for name in ("a", "b", "c")] == ["a", None, "c"]
    store.drop("a")
    store.drop("a")
    assert store.get("a") is None
