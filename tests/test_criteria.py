"""The built-in criteria against slow twins in plain Python."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from ddn_core.api import AnyCriterion, Context, Directions, GivenNorms
from ddn_core.testing import typical_directions

CRITERION = TypeAdapter(AnyCriterion)

spectra = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8).map(sorted)


def criterion(kind, **fields):
    return CRITERION.validate_python({"kind": kind, **fields})


def directions_of(evals, gradient=None, outputs=1, parameters=100, norm=None):
    evals = torch.tensor(evals, dtype=torch.float64)
    gradient = torch.tensor(gradient, dtype=torch.float64) if gradient is not None else torch.ones_like(evals)
    norms = GivenNorms(gradient=float(gradient.norm()) if norm is None else norm)
    context = Context(outputs=outputs, parameters=parameters, norms=norms)
    return Directions.from_tensors(
        evals, torch.eye(len(evals), dtype=torch.float64), gradient.expand(2, -1), evals.expand(2, -1), context=context
    )


def select(directions, kind, **fields):
    return criterion(kind, **fields)(directions).tolist()


def test_top_k_of_outputs():
    directions = directions_of([1.0, 2.0, 3.0, 4.0], outputs=3)
    assert select(directions, "top-k", k="outputs") == [1, 2, 3]
    assert criterion("top-k", k="outputs").leading_directions(directions.context) == 3
    assert select(directions, "top-k", k=9) == [0, 1, 2, 3]


@given(spectra, st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]))
def test_energy_is_the_smallest_set(evals, fraction):
    kept = select(directions_of(evals), "energy", fraction=fraction)
    assert kept == list(range(len(evals) - len(kept), len(evals)))
    held, total = math.fsum(evals[k] for k in kept), math.fsum(evals)
    assert held >= fraction * total * (1 - 1e-12)
    assert len(kept) == 1 or held - min(evals[k] for k in kept) < fraction * total * (1 + 1e-12)


@given(spectra, st.integers(1, 5))
def test_eigengap_is_the_largest_ratio(evals, most):
    kept = select(directions_of(evals), "eigengap", most=most)
    descending = evals[::-1]
    ratios = [descending[i] / descending[i + 1] for i in range(min(most, len(evals) - 1))]
    if ratios:
        assert ratios[len(kept) - 1] == pytest.approx(max(ratios), rel=1e-12)
    else:
        assert kept == [0]
    assert kept == list(range(len(evals) - len(kept), len(evals)))


@given(spectra, st.integers(1, 5))
def test_eigengap_needs_no_more_than_the_leading_directions(evals, most):
    directions = directions_of(evals)
    leading = directions_of(evals[-criterion("eigengap", most=most).leading_directions(directions.context) :])
    left_out = len(directions) - len(leading)
    kept = [left_out + index for index in select(leading, "eigengap", most=most)]
    assert kept == select(directions, "eigengap", most=most)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=7), st.sampled_from([0.3, 0.9, 1.0]), st.integers(1, 7))
def test_gradient_overlap_is_the_smallest_set(gradient, fraction, most):
    gradient = [round(value, 3) for value in gradient]
    directions = directions_of([1.0] * len(gradient), gradient)
    kept = select(directions, "gradient-overlap", fraction=fraction)
    need = fraction * sum(value**2 for value in gradient) * (1 - 1e-6)
    sizes = [
        size
        for size in range(1, len(gradient) + 1)
        if any(
            sum(gradient[k] ** 2 for k in some) >= need for some in itertools.combinations(range(len(gradient)), size)
        )
    ]
    assert len(kept) == min(sizes)
    bounded = select(directions, "gradient-overlap", fraction=fraction, k=most)
    assert len(bounded) == min(min(sizes), most)
    left_out = [abs(gradient[k]) for k in range(len(gradient)) if k not in bounded]
    assert min(abs(gradient[k]) for k in bounded) >= max(left_out, default=0.0)


def test_gradient_overlap_keeps_all_where_the_gradient_lies_outside():
    directions = directions_of([1.0, 2.0, 3.0], [1.0, 0.0, 2.0], norm=100.0)
    assert select(directions, "gradient-overlap", fraction=0.5) == [0, 1, 2]
    assert select(directions, "gradient-overlap", fraction=0.5, k=1) == [2]


@pytest.mark.parametrize("of", ["gradient", "curvature"])
def test_snr_follows_its_formula(of):
    directions = typical_directions(12, samples=7)
    values = directions.gammas if of == "gradient" else directions.lambdas
    ratios = []
    for k in range(12):
        column = values[:, k].tolist()
        ratios.append(abs(statistics.fmean(column)) / math.sqrt(statistics.variance(column) / 7))
    for bound in (0.5, 1.0, 2.0, 4.0):
        assert select(directions, "snr", of=of, bound=bound) == [k for k in range(12) if ratios[k] >= bound]
    assert len({len(select(directions, "snr", of=of, bound=bound)) for bound in (0.5, 2.0, 4.0)}) > 1


def test_gain_follows_its_formula():
    directions = typical_directions(12, samples=9)
    kept = select(directions, "gain", quantile=0.2, resamples=40, seed=2)
    drawn = torch.randint(9, (40, 9), generator=directions.context.generator(2)).tolist()
    expected = []
    for k in range(12):
        gammas, lambdas = directions.gammas[:, k].tolist(), directions.lambdas[:, k].tolist()
        gamma, curvature = statistics.fmean(gammas), statistics.fmean(lambdas)
        pairs = sorted(zip(gammas, lambdas, strict=True), key=lambda pair: math.copysign(1.0, gamma) * pair[0])
        tau = -gamma / curvature
        gains = sorted(
            -statistics.fmean(pairs[n][0] for n in chosen) * tau
            - 0.5 * statistics.fmean(pairs[n][1] for n in chosen) * tau**2
            for chosen in drawn
        )
        if gains[7] >= 0:  # the 8th of 40 is the quantile at 0.2
            expected.append(k)
    assert kept == expected
    assert 0 < len(kept) < 12


@pytest.mark.parametrize("aspect", [0.05, 0.3, 1.0])
def test_the_bulk_of_noise_is_below_its_edge_and_outliers_are_above(aspect):
    """Eigenvalues of sample covariances of noise: nothing stands out; what is put in, does."""
    torch.manual_seed(0)
    rows = 400
    noise = 3.0 * torch.randn(rows, round(rows / aspect), dtype=torch.float64)
    evals = torch.linalg.eigvalsh(noise @ noise.T)
    columns = {"outputs": 1, "parameters": noise.shape[1]}
    assert len(select(directions_of(evals.tolist(), **columns), "bulk-edge", margin=1.05)) == 0
    strong = torch.cat([evals, evals[-1] * torch.tensor([1.3, 2.0, 40.0], dtype=torch.float64)])
    found = select(directions_of(strong.tolist(), **columns), "bulk-edge", margin=1.05)
    assert found == [400, 401, 402]
    assert found == select(directions_of(strong.tolist()), "bulk-edge", margin=1.05, aspect=aspect)


def test_the_median_of_the_law():
    """0.6528 is from Gavish and Donoho 2014: their coefficient at aspect 1 is (4/√3) / √0.6528 = 2.858."""
    from ddn_plugins.criteria._marchenko_pastur import edge, median

    assert (4 / math.sqrt(3)) / math.sqrt(median(1.0)) == pytest.approx(2.858, abs=1e-3)
    assert edge(1.0) == 4.0
    assert median(1e-6) == pytest.approx(1.0, abs=1e-2)
    assert select(directions_of([2.0]), "bulk-edge") == [0]


@given(spectra, st.floats(1e-3, 1e3))
def test_effective_dimension(evals, value):
    dimension = math.fsum(eigenvalue / (eigenvalue + value) for eigenvalue in evals)
    kept = select(directions_of(evals), "effective-dimension", value=value)
    assert math.ceil(dimension - 1e-9) <= len(kept) <= math.ceil(dimension + 1e-9)
    assert kept == list(range(len(evals) - len(kept), len(evals)))


def test_random_draws_are_fair_and_differ_by_step_group_and_seed():
    strategy, counts = criterion("random", k=2, seed=5), [0] * 5
    for step in range(2000):
        context = Context(step=step)
        evals = torch.ones(5)
        kept = strategy(Directions.from_tensors(evals, torch.eye(5), evals[None], evals[None], context=context))
        assert len(kept) == 2
        for k in kept.tolist():
            counts[k] += 1
    assert all(abs(count - 800) < 4 * math.sqrt(2000 * 0.4 * 0.6) for count in counts)
    numbers = {
        int(torch.randint(2**62, (), generator=Context(step=step, group=group).generator(seed)))
        for step in range(3)
        for group in range(3)
        for seed in range(3)
    }
    assert len(numbers) == 27


def test_combinators_of_criteria():
    directions = directions_of([1.0, 2.0, 3.0, 4.0])
    top, large = {"kind": "top-k", "k": 2}, {"kind": "threshold", "value": 2.0}
    assert select(directions, "all-of", of=[top, large]) == [2, 3]
    assert select(directions, "any-of", of=[top, large]) == [1, 2, 3]
    assert select(directions, "none-of", of=[top, large]) == [0]
    assert select(directions, "none-of", of=[{"kind": "all"}]) == []
    assert select(directions, "at-least", of=top, count=3) == [1, 2, 3]
    assert select(directions, "at-least", of=top, count=9) == [0, 1, 2, 3]
    assert select(directions, "at-least", of=top, count=1) == [2, 3]
    assert select(directions, "at-most", of=large, count=1) == [3]
    lowest = {"kind": "none-of", "of": [top]}
    assert select(directions, "at-most", of=lowest, count=1) == [1]
    assert select(directions, "at-least", of=lowest, count=3) == [0, 1, 3]


def test_what_combinators_need_of_the_spectrum():
    context, top, every = Context(outputs=4), {"kind": "top-k", "k": 2}, {"kind": "energy"}
    for kind in ("all-of", "any-of"):
        assert criterion(kind, of=[top, {"kind": "top-k", "k": "outputs"}]).leading_directions(context) == 4
        assert criterion(kind, of=[top, every]).leading_directions(context) is None
    assert criterion("none-of", of=[top]).leading_directions(context) is None
    assert criterion("at-most", of={"kind": "all"}, count=3).leading_directions(context) == 3
    assert criterion("at-most", of=every, count=3).leading_directions(context) is None
    assert criterion("at-least", of=top, count=7).leading_directions(context) == 7
    assert criterion("any-of", of=[top, {"kind": "all"}]).keeps_all()
    assert not criterion("all-of", of=[top, {"kind": "all"}]).keeps_all()
