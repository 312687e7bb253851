"""The built-in criteria and dampings against their formulas, on random spectra."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PrivateAttr, TypeAdapter, ValidationError

from ddn_core.api import AnyCriterion, AnyDamping, Context, Criterion, Damping, Directions
from ddn_core.errors import StrategyError

CRITERION, DAMPING = TypeAdapter(AnyCriterion), TypeAdapter(AnyDamping)

spectra = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12).map(sorted)


def directions_of(evals, dtype=torch.float64, samples=3):
    values = torch.tensor(evals, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    gammas = torch.randn(samples, len(evals), dtype=dtype, generator=generator)
    return Directions.from_tensors(values, torch.eye(len(evals), dtype=dtype), gammas, values.expand(samples, -1))


def select(table, evals):
    return CRITERION.validate_python(table)(directions_of(evals)).tolist()


def damp(table, evals):
    return DAMPING.validate_python(table)(directions_of(evals)).tolist()


CRITERIA = [
    {"kind": "all"},
    {"kind": "top-k", "k": 3},
    {"kind": "threshold", "value": 1.0},
    {"kind": "relative-threshold", "ratio": 0.1},
    {"kind": "all-of", "of": [{"kind": "top-k", "k": 3}, {"kind": "threshold", "value": 1.0}]},
    {"kind": "any-of", "of": [{"kind": "top-k", "k": 1}, {"kind": "threshold", "value": 1.0}]},
]
DAMPINGS = [
    {"kind": "constant", "value": 0.5},
    {"kind": "relative", "fraction": 0.1},
    {"kind": "relative", "fraction": 0.1, "of": "mean"},
    {"kind": "maximum", "of": [{"kind": "constant", "value": 0.5}, {"kind": "relative", "fraction": 0.1}]},
    {"kind": "sum", "of": [{"kind": "constant", "value": 0.5}, {"kind": "relative", "fraction": 0.1}]},
]


@given(spectra)
def test_criteria_follow_their_formulas(evals):
    every = range(len(evals))
    top = set(every[-3:])
    large = {k for k in every if evals[k] >= 1.0}
    expected = [
        set(every),
        top,
        large,
        {k for k in every if evals[k] >= 0.1 * max(evals)},
        top & large,
        {every[-1]} | large,
    ]
    for table, indices in zip(CRITERIA, expected, strict=True):
        assert select(table, evals) == sorted(indices), table


@given(spectra)
def test_dampings_follow_their_formulas(evals):
    largest, mean = max(evals), sum(evals) / len(evals)
    expected = [0.5, 0.1 * largest, 0.1 * mean, max(0.5, 0.1 * largest), 0.5 + 0.1 * largest]
    for table, value in zip(DAMPINGS, expected, strict=True):
        assert damp(table, evals) == pytest.approx([value] * len(evals)), table


@pytest.mark.parametrize("table", [*CRITERIA, *DAMPINGS], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_strategy_keeps_dtype_inputs_and_its_schema(table, dtype):
    adapter = CRITERION if table in CRITERIA else DAMPING
    strategy = adapter.validate_python(table)
    directions = directions_of([0.01, 1.0, 2.0, 30.0], dtype)
    before = [value.clone() for value in (directions.evals, directions.evecs, directions.gammas, directions.lambdas)]
    first, again = strategy(directions), strategy(directions)
    assert torch.equal(first, again)
    assert first.dtype == (torch.long if table in CRITERIA else dtype)
    after = (directions.evals, directions.evecs, directions.gammas, directions.lambdas)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(after, before, strict=True))
    assert adapter.validate_python(strategy.table()) == strategy
    assert adapter.validate_json(adapter.dump_json(strategy)) == strategy
    assert type(strategy).summary().endswith(".")
    for name, field in type(strategy).model_fields.items():
        assert field.description, name
    with pytest.raises(StrategyError, match=r"sets the attribute .value., but a strategy cannot change its fields"):
        strategy.value = 3.0
    assert strategy(directions_of([0.5], dtype)).shape in {(0,), (1,)}


def test_loss_units():
    """Scaling the loss by c scales λ by c: `relative` goes along, `constant` does not."""
    evals = [0.5, 1.0, 4.0]
    scaled = [10 * value for value in evals]
    relative = {"kind": "relative", "fraction": 0.1}
    assert damp(relative, scaled) == pytest.approx([10 * value for value in damp(relative, evals)])
    assert damp({"kind": "constant", "value": 2.0}, scaled) == [2.0] * 3
    assert select({"kind": "relative-threshold", "ratio": 0.2}, scaled) == select(
        {"kind": "relative-threshold", "ratio": 0.2}, evals
    )


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "top-k", "k": 0},
        {"kind": "top-k", "k": 1.5},
        {"kind": "threshold"},
        {"kind": "threshold", "value": -1},
        {"kind": "relative-threshold", "ratio": 0},
        {"kind": "relative-threshold", "ratio": 1.1},
        {"kind": "all-of", "of": []},
        {"kind": "any-of"},
        {"kind": "all", "k": 1},
        {"kind": "all-of", "of": [{"kind": "constant"}]},
    ],
    ids=str,
)
def test_criteria_refuse_bad_fields(table):
    with pytest.raises(ValidationError):
        CRITERION.validate_python(table)


@pytest.mark.parametrize(
    "table",
    [
        {"kind": "constant", "value": -1},
        {"kind": "constant", "value": "x"},
        {"kind": "constant", "value": float("inf")},
        {"kind": "relative", "of": "median"},
        {"kind": "maximum", "of": []},
        {"kind": "sum", "of": [{"kind": "top-k"}]},
    ],
    ids=str,
)
def test_dampings_refuse_bad_fields(table):
    with pytest.raises(ValidationError):
        DAMPING.validate_python(table)


def test_combinators_take_objects_and_functions():
    class Own(Damping):
        """δ = 3."""

        def damp(self, directions):
            return torch.full_like(directions.evals, 3.0)

    combined = DAMPING.validate_python({"kind": "sum", "of": [Own(), lambda evals, evecs, gammas, lambdas: evals]})
    assert combined(directions_of([1.0, 2.0])).tolist() == [4.0, 5.0]
    kept = CRITERION.validate_python({"kind": "all-of", "of": [lambda evals: [0, 1], {"kind": "top-k", "k": 2}]})
    assert kept(directions_of([1.0, 2.0, 3.0])).tolist() == [1]


def test_an_error_inside_a_combinator_names_the_culprit():
    class Wrong(Damping):
        """Returns a float."""

        def damp(self, directions):
            return 1.0

    with pytest.raises(StrategyError, match=r"^damping 'Wrong' \(.*\): `damp` returned a float"):
        DAMPING.validate_python({"kind": "maximum", "of": [{"kind": "constant"}, Wrong()]})(directions_of([1.0]))


def test_a_function_cannot_count_from_a_part():
    """A function counts from all eigenvalues: given only some of the directions, its indices would mean others."""
    some = directions_of([1.0, 2.0, 3.0]).select([0, 1])
    function = CRITERION.validate_python(lambda evals: [0])
    assert function(directions_of([1.0, 2.0, 3.0])).tolist() == [0]
    with pytest.raises(StrategyError, match="a function needs the eigenvalues of all"):
        function(some)


def test_top_k_needs_only_the_leading_part():
    assert CRITERION.validate_python({"kind": "top-k", "k": 7}).leading_directions(Context()) == 7
    assert CRITERION.validate_python({"kind": "all"}).leading_directions(Context()) is None


def test_copies_share_no_state():
    class Counter(Criterion):
        """Counts."""

        _calls: list[int] = PrivateAttr(default_factory=list)

        def select(self, directions):
            self._calls.append(1)
            return [0]

    first = Counter()
    second = first.model_copy(deep=True)
    second(directions_of([1.0]))
    assert (len(first._calls), len(second._calls)) == (0, 1)
    first.load_state_dict(second.state_dict())
    assert len(first._calls) == 1
    with pytest.raises(StrategyError, match="cannot load a state"):
        first.load_state_dict({"own": {"_other": 1}})


def test_directions_of_tensors():
    directions = directions_of([1.0, 2.0, 3.0])
    chosen = directions.select([2, 0])
    assert chosen.evals.tolist() == [3.0, 1.0]
    assert torch.equal(chosen.gammas, directions.gammas[:, [2, 0]])
    assert torch.equal(chosen.loss_gammas, directions.gammas.mean(0)[[2, 0]])
    with pytest.raises(AttributeError):
        directions.evals = torch.ones(3)
    with pytest.raises(LookupError, match="no parameters"):
        directions.eigenvectors()
