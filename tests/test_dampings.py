"""The built-in dampings against slow twins in plain Python, and against the properties that define them."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ddn_core.api import AnyDamping, Context, Directions, GivenNorms, Outcome
from ddn_core.testing import typical_directions

DAMPING = TypeAdapter(AnyDamping)


def damping(kind, **fields):
    return DAMPING.validate_python({"kind": kind, **fields})


def directions_of(evals, gradient, samples=3, **context):
    """Return directions whose samples all have the same derivatives."""
    evals, gradient = (torch.tensor(values, dtype=torch.float64) for values in (evals, gradient))
    length, norm = context.pop("length", float(gradient.norm())), context.pop("norm", 1.0)
    norms = GivenNorms(gradient=length, parameters=norm)
    return Directions.from_tensors(
        evals,
        torch.eye(max(len(evals), samples), dtype=torch.float64)[:, : len(evals)],
        gradient.expand(samples, -1),
        evals.expand(samples, -1),
        context=Context(norms=norms, samples=samples, **context),
    )


magnitudes = st.floats(-6, 6).map(lambda exponent: 10**exponent)
problems = st.lists(
    st.tuples(magnitudes, st.one_of(st.just(0.0), magnitudes), st.sampled_from([-1, 1])), min_size=1, max_size=12
).map(lambda rows: directions_of(*zip(*sorted((row[0], row[1] * row[2]) for row in rows), strict=True)))


def step_norm(directions, delta):
    """Return ‖s(δ)‖ for one damping."""
    pairs = zip(directions.gammas[0].tolist(), directions.evals.tolist(), strict=True)
    return math.hypot(*(gamma / (value + delta) for gamma, value in pairs))


def one(deltas):
    """Return the damping that all directions have."""
    assert len(set(deltas.tolist())) == 1
    return float(deltas[0])


def outcome(ratio, predicted=1.0, norm=1.0, **changes):
    fields = {"step": 0, "lr": 1.0, "loss_before": 5.0, "loss_after": 5.0 - ratio * predicted, "directions": 3}
    fields |= {"predicted_decrease": predicted, "total_predicted_decrease": predicted, "step_norm": norm}
    return Outcome(**{**fields, **changes})


# Defined by the step


@given(problems, magnitudes)
def test_the_trust_region_step_is_on_the_boundary_or_undamped(directions, radius):
    radius = min(radius, 100.0)
    delta = one(damping("trust-region", radius=radius)(directions))
    undamped = step_norm(directions, 0.0)
    if undamped > radius * (1 + 1e-14):  # equal up to rounding is both
        assert delta > 0.0
    if undamped < radius * (1 - 1e-14):
        assert delta == 0.0
    if delta:
        assert step_norm(directions, delta) == pytest.approx(radius, rel=1e-8)


@given(problems, magnitudes)
def test_the_cubic_damping_satisfies_its_equation(directions, lipschitz):
    delta = one(damping("cubic", lipschitz=lipschitz)(directions))
    assert delta == pytest.approx(0.5 * lipschitz * step_norm(directions, delta), rel=1e-8, abs=0)


@given(problems, magnitudes)
def test_the_cubic_step_minimises_the_cubic_model(directions, lipschitz):
    delta = one(damping("cubic", lipschitz=lipschitz)(directions))

    def model(scale):
        lengths = -directions.gammas[0] / (directions.evals + delta) * scale
        linear, quadratic = directions.gammas[0] @ lengths, 0.5 * directions.evals @ lengths.square()
        return float(linear + quadratic) + lipschitz / 6 * float(lengths.norm()) ** 3

    best = model(1.0)
    assert all(best <= model(scale) + 1e-9 * abs(best) for scale in (0.5, 0.9, 1.1, 2.0))


@given(problems, magnitudes, st.sampled_from([1.0, 2.5]), st.integers(1, 10**5))
def test_the_evidence_is_a_fixed_point(directions, norm, nat, samples):
    context = Context(norms=GivenNorms(parameters=norm), samples=7)
    directions = Directions.from_tensors(
        directions.evals, directions.evecs, directions.gammas, directions.lambdas, context=context
    )
    delta = one(damping("evidence", nat=nat, samples=samples)(directions))
    effective = sum(value / (value + delta) for value in directions.evals.tolist())
    assert delta == pytest.approx(nat * effective / (samples * norm**2), rel=1e-8)


def test_the_evidence_counts_the_samples_of_the_batch_and_needs_parameters():
    directions = directions_of([1.0, 2.0], [1.0, 1.0], samples=5, norm=3.0)
    expected = one(damping("evidence", samples=5)(directions))
    assert one(damping("evidence")(directions)) == expected
    with pytest.raises(ValueError, match="parameters are all zero"):
        damping("evidence")(directions_of([1.0], [1.0], norm=0.0))


@given(problems, magnitudes)
def test_clipped_steps_have_at_most_the_length(directions, length):
    deltas = damping("clip", length=length)(directions)
    for gamma, value, delta in zip(directions.gammas[0].tolist(), directions.evals.tolist(), deltas, strict=True):
        newton = abs(gamma) / value
        assert abs(gamma) / (value + float(delta)) == pytest.approx(min(newton, length), rel=1e-9)
        assert delta == 0.0 or newton > length * (1 - 1e-9)


def test_gradient_norm_needs_no_directions():
    directions = directions_of([1.0, 4.0], [3.0, 4.0], length=8.0)
    assert one(damping("gradient-norm", smoothness=2.0)(directions)) == 4.0
    assert damping("gradient-norm", smoothness=2.0).uniform(directions.context) == 4.0


# Noise


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("samples", [1, 2, 7])
def test_dampings_by_noise_follow_their_formulas(samples, reduction):
    directions = typical_directions(6, samples=max(samples, 2), reduction=reduction)
    if samples == 1:
        directions = Directions.from_tensors(
            directions.evals, directions.evecs, directions.gammas[:1], directions.lambdas[:1], reduction
        )
    noise = damping("gradient-noise", strength=0.7)(directions).tolist()
    cutoff = damping("snr-cutoff", epsilon=1.5, power=4.0)(directions).tolist()
    for k in range(6):
        gammas, lambdas = directions.gammas[:, k].tolist(), directions.lambdas[:, k].tolist()
        mean = statistics.fmean(gammas)
        variance = statistics.variance(gammas) / samples if samples > 1 else 0.0
        curvature = statistics.fmean(lambdas) if reduction == "mean" else math.fsum(lambdas)
        if samples > 1:  # curvatures of one sample out of two do not average to the eigenvalues
            assert noise[k] == pytest.approx(0.7 * curvature * variance / mean**2, rel=1e-9)
        ratio = 1.5 / (abs(mean) / math.sqrt(variance)) if variance else 0.0
        assert cutoff[k] == pytest.approx(float(directions.evals[k]) * ratio**4, rel=1e-9)


def test_gradient_noise_has_the_largest_expected_gain():
    """Simulated: of all dampings, none has a larger mean gain, for gradients drawn about their mean."""
    generator = torch.Generator().manual_seed(0)
    gamma, variance, curvature, samples = 0.8, 3.0, 2.0, 12
    estimates = gamma + (variance / samples) ** 0.5 * torch.randn(400_000, generator=generator, dtype=torch.float64)

    def mean_gain(delta):
        lengths = -estimates / (curvature + delta)
        return float((-gamma * lengths - 0.5 * curvature * lengths.square()).mean())

    best = curvature * (variance / samples) / gamma**2
    assert all(mean_gain(best) > mean_gain(best * factor) for factor in (0.0, 0.5, 0.8, 1.25, 2.0, 10.0))
    noise = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(samples // 2)
    gammas = gamma + noise / noise.std() * variance**0.5  # with exactly this mean and variance
    evals = torch.tensor([curvature], dtype=torch.float64)
    directions = Directions.from_tensors(
        evals, torch.eye(samples, 1, dtype=torch.float64), gammas[:, None], evals.expand(samples, 1)
    )
    assert damping("gradient-noise")(directions).item() == pytest.approx(best, rel=1e-9)


def test_directions_of_pure_noise_are_not_moved_along():
    gammas = torch.tensor([[1.0, 2.0], [-1.0, 2.0]], dtype=torch.float64)
    evals = torch.tensor([1.0, 3.0], dtype=torch.float64)
    directions = Directions.from_tensors(evals, torch.eye(2, dtype=torch.float64), gammas, evals.expand(2, 2))
    for kind in ("gradient-noise", "snr-cutoff"):
        assert damping(kind)(directions).tolist() == [math.inf, 0.0]


def test_smooth_pseudo_inverse_follows_its_formula():
    directions = typical_directions(8)
    evals = directions.evals.tolist()
    deltas = damping("smooth-pseudo-inverse", epsilon=1e-2, power=3.0)(directions).tolist()
    assert deltas == pytest.approx([value * (1e-2 * max(evals) / value) ** 3 for value in evals], rel=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_bootstrap_follows_its_formula(reduction):
    """The twin resamples in a loop, from the same random numbers, and looks at each damping of the grid."""
    directions = typical_directions(5, samples=9, reduction=reduction, seed=3)
    strategy = damping("bootstrap", resamples=50, quantile=0.2, lowest=0.1, highest=10.0, points=3, seed=4)
    drawn = torch.randint(9, (50, 9), generator=directions.context.generator(4)).tolist()
    expected = []
    for k in range(5):
        gammas, lambdas = directions.gammas[:, k].tolist(), directions.lambdas[:, k].tolist()
        sign = math.copysign(1.0, sum(gammas))
        pairs = sorted(zip(gammas, lambdas, strict=True), key=lambda pair: (sign * pair[0], pair[1]))
        mean = statistics.fmean if reduction == "mean" else math.fsum
        gamma, curvature = mean(gammas), mean(lambdas)
        scores = []
        for multiple in (0.0, 0.1, 1.0, 10.0):
            tau = -gamma / (curvature + multiple * curvature)
            gains = sorted(
                -mean(pairs[n][0] for n in chosen) * tau - 0.5 * mean(pairs[n][1] for n in chosen) * tau**2
                for chosen in drawn
            )
            scores.append((gains[9], multiple * curvature))  # the 10th of 50 is the quantile at 0.2
        best, delta = max(scores, key=lambda score: score[0])
        expected.append(delta if best >= 0 else math.inf)
    assert len(set(expected)) > 2
    assert strategy(directions).tolist() == pytest.approx(expected, rel=1e-9)


def test_bootstrap_resamples_gradients_and_curvatures_of_different_samples_apart():
    plain = typical_directions(4, samples=10)
    gammas = torch.cat([plain.gammas, plain.gammas])
    directions = Directions.from_tensors(plain.evals, plain.evecs, gammas, plain.lambdas)
    deltas = damping("bootstrap")(directions)
    assert deltas.shape == (4,)
    assert damping("bootstrap", quantile=0.5)(directions).isfinite().all()


# Adaptive


def test_levenberg_marquardt_follows_the_ratio():
    strategy = damping("levenberg-marquardt", initial=1.0, increase=3.0, decrease=0.5, bad=0.25, good=0.75)
    directions = directions_of([1.0], [1.0])
    expected = 1.0
    for ratio, factor in [(0.24, 3), (0.25, 1), (0.5, 1), (0.75, 1), (0.76, 0.5), (2.0, 0.5), (-1.0, 3)]:
        strategy.notify(outcome(ratio))
        expected *= factor
        assert one(strategy(directions)) == strategy.uniform(directions.context) == pytest.approx(expected), ratio
    strategy.notify(outcome(math.nan))
    assert one(strategy(directions)) == pytest.approx(expected * 3)
    strategy.notify(outcome(0.5, loss_after=math.inf))
    assert one(strategy(directions)) == pytest.approx(expected * 9)
    strategy.notify(outcome(1.0, predicted=-1.0))  # no decrease was predicted
    assert one(strategy(directions)) == pytest.approx(expected * 27)
    strategy.notify(outcome(1.0, predicted=0.0))  # nothing was moved
    assert one(strategy(directions)) == pytest.approx(expected * 27)


@pytest.mark.parametrize("kind", ["levenberg-marquardt", "trust-region"])
def test_adaptive_dampings_recover_from_steps_that_are_too_short(kind):
    """A loss at rounding level, or a closure that returns NaN, drives them to their bounds; they come back from there."""
    strategy, directions = damping(kind), directions_of([1e-3, 1.0], [1.0, 1.0])
    first = one(strategy(directions))
    for _ in range(400):
        strategy.notify(outcome(math.nan))
    for dtype in (torch.float32, torch.float64):
        short = directions_of([1e-3, 1.0], [1.0, 1.0])
        short = Directions.from_tensors(*(getattr(short, n).to(dtype) for n in ("evals", "evecs", "gammas", "lambdas")))
        assert (strategy(short) > 1e6).all()
    for _ in range(100):
        strategy.notify(outcome(0.0, predicted=1e-8, norm=0.0 if kind == "levenberg-marquardt" else strategy._radius))
    assert one(strategy(directions)) <= first


def test_levenberg_marquardt_begins_within_its_bounds():
    assert damping("levenberg-marquardt", lowest=2.0).uniform(Context()) == 2.0
    assert damping("levenberg-marquardt", highest=0.5).uniform(Context()) == 0.5
    for kind, low, high in [("levenberg-marquardt", "lowest", "highest"), ("bootstrap", "lowest", "highest")]:
        with pytest.raises(ValidationError, match="give bounds in order"):
            damping(kind, **{low: 2.0, high: 1.0})
    with pytest.raises(ValidationError, match="give bounds in order"):
        damping("trust-region", smallest=2.0, largest=1.0)


def test_levenberg_marquardt_stays_within_its_bounds():
    strategy = damping("levenberg-marquardt", lowest=0.5, highest=2.0)
    directions = directions_of([1.0], [1.0])
    for ratio, expected in [(0.0, 2.0), (1.0, 0.5)]:
        for _ in range(20):
            strategy.notify(outcome(ratio))
        assert one(strategy(directions)) == expected


def test_the_trust_region_adapts():
    strategy = damping("trust-region", radius=1.0, largest=3.0)
    directions = directions_of([1e-3], [1e3])
    radii = []
    for ratio, norm in [(0.9, 1.0), (0.9, 0.5), (0.5, 2.0), (0.9, 2.0), (0.1, 3.0), (math.nan, 0.75)]:
        strategy.notify(outcome(ratio, norm=norm))
        radii.append(step_norm(directions, one(strategy(directions))))
    assert radii == pytest.approx([2.0, 2.0, 2.0, 3.0, 0.75, 0.1875], rel=1e-9)


def fresh(step, change, **changes):
    """Return an outcome of a step whose batch has a loss of 5 at the average, and 5 plus a change at the iterate."""
    return outcome(0.5, **{"step": step, "displacement_change": change, **changes})


def test_fresh_batch_counts_a_batch_once():
    """However often its step is tried, and where the damping of a further try is asked for."""
    once, often = damping("fresh-batch"), damping("fresh-batch")
    norms = GivenNorms(sample_gradients=5.0, displacement=(50.0, 0.0))
    for step in range(3):
        for strategy, tries in ((once, 1), (often, 4)):
            for _ in range(tries):
                strategy.notify(fresh(step, 50.0))
        assert often._noise == once._noise
        assert often.uniform(Context(step=step, loss=5.0, norms=norms)) == max(once._model, once._noise)
    assert often.uniform(Context(step=3, loss=5.0, norms=norms)) == max(once._model, once._noise)
    strategy = damping("fresh-batch", initial=1e-3, noise=1.0)
    assert strategy.uniform(Context(step=0, loss=5.0, norms=norms)) > 1.0  # a batch counts in its own step
    assert strategy._noise == 1.0  # which a look does not change


def test_fresh_batch_follows_the_ratio_by_at_most_its_gain():
    """Whatever the loss of a batch at the iterate, `noise` changes by at most the factor `exp(gain)`."""
    for change, factor in [(1e9, math.exp(0.2)), (-5.0, math.exp(-0.2)), (-1e9, math.exp(-0.2)), (0.0, 1.0)]:
        strategy = damping("fresh-batch", target=1.01 if change > 0 else 10.0)
        for step in range(40):
            before = strategy._noise
            strategy.notify(fresh(step, change, loss_after=None))
        assert strategy._noise / before == pytest.approx(factor), change


def test_fresh_batch_after_a_loss_that_is_not_finite():
    """Without a closure the damping becomes 9 times as large; with one it is that of a bad model, 3 times as large."""
    strategy = damping("fresh-batch", noise=0.1)
    strategy.notify(outcome(0.5, loss_after=math.inf))
    assert (strategy._model, strategy._noise) == (1.0, 9.0)
    strategy = damping("fresh-batch", noise=0.1)
    strategy.notify(outcome(0.5))  # neither good nor bad
    for after in (math.inf, math.nan):
        before = strategy._model
        strategy.notify(outcome(0.5, loss_after=after))
        assert (strategy._model, strategy._noise) == (pytest.approx(3 * before), 0.1)


@pytest.mark.parametrize("after", [None, 4.5])
def test_fresh_batch_begins_where_the_limit_on_the_decrease_ended(after):
    strategy = damping("fresh-batch", noise=0.1, decay=1.0)
    strategy.notify(outcome(0.5, loss_after=after, damping_factor=16.0))
    assert (strategy._model, strategy._noise) == ((1.0 if after is None else 16.0), 0.2)


def test_fresh_batch_where_losses_are_not_positive():
    """There is no ratio of losses and no unit: `noise` stays, and T is the mean of the eigenvalues."""
    strategy = damping("fresh-batch")
    for step in range(3):
        strategy.notify(fresh(step, 1.0, loss_before=-5.0, loss_after=None))
    assert strategy._noise == 1e-2
    norms = GivenNorms(curvature=7.0, sample_gradients=5.0, displacement=(1.0, 0.0))
    for loss in (-5.0, 0.0):
        assert strategy.uniform(Context(step=3, loss=loss, norms=norms)) == pytest.approx(7.0 * (2 / 3) ** 3)


# Functions of the step, and combinators


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"shape": "linear", "first": 2.0, "last": 1.0, "steps": 4}, {0: 2.0, 1: 1.75, 4: 1.0, 9: 1.0}),
        ({"shape": "cosine", "first": 2.0, "last": 1.0, "steps": 4}, {0: 2.0, 1: 1.5 + 0.5**1.5, 2: 1.5, 9: 1.0}),
        ({"shape": "exponential", "first": 8.0, "last": 1.0, "steps": 3}, {0: 8.0, 1: 4.0, 3: 1.0, 9: 1.0}),
        ({"shape": "piecewise", "points": [[5, 2.0], [0, 8.0]]}, {0: 8.0, 4: 8.0, 5: 2.0, 9: 2.0}),
        ({"shape": "piecewise", "points": [[5, 2.0]]}, {0: 2.0, 9: 2.0}),
    ],
    ids=lambda given: given.get("shape", ""),
)
def test_schedules(values, expected):
    strategy = damping("schedule", of={"kind": "constant"}, field="value", values=values)
    for step, value in expected.items():
        directions = directions_of([1.0, 2.0], [1.0, 1.0], step=step)
        assert one(strategy(directions)) == pytest.approx(value), step
        assert strategy.uniform(directions.context) == pytest.approx(value)


def test_a_schedule_of_an_adaptive_damping_keeps_its_state():
    values = {"shape": "linear", "first": 1.0, "last": 1.0, "steps": 1}
    strategy = damping("schedule", of={"kind": "levenberg-marquardt"}, field="increase", values=values)
    strategy.notify(outcome(0.0))
    assert strategy.uniform(Context()) == 1.0  # `increase` is 1 when it observes
    values = {"shape": "piecewise", "points": [[0, 100.0], [3, 2.0]]}
    strategy = damping("schedule", of={"kind": "levenberg-marquardt"}, field="increase", values=values)
    for step, expected in [(0, 100.0), (2, 10000.0), (3, 20000.0)]:
        strategy.notify(outcome(0.0, step=step))
        assert strategy.uniform(Context(step=step)) == pytest.approx(expected)
    values = {"shape": "linear", "first": 1.0, "last": 1.0, "steps": 1}
    fast = damping("schedule", of={"kind": "bootstrap"}, field="resamples", values={**values, "last": 50.0})
    assert fast(typical_directions()).shape == (24,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"field": "valu"}, "'constant' has no field 'valu'; its fields with numbers are: value"),
        ({"values": {"shape": "linear", "first": 1.0, "last": -1.0, "steps": 5}}, "cannot be -1: Input should be"),
        ({"values": {"shape": "parabola"}}, "shape"),
        ({"values": {"shape": "linear", "first": 1.0, "last": 1.0}}, "steps"),
        ({"values": {"shape": "piecewise", "points": [[1, 1.0], [1, 2.0]]}}, "two points have the same step"),
        ({"of": {"kind": "maximum", "of": [{"kind": "constant"}]}}, "its fields with numbers are: none"),
    ],
)
def test_schedules_that_cannot_be(fields, message):
    good = {"of": {"kind": "constant"}, "field": "value"}
    good["values"] = {"shape": "linear", "first": 1.0, "last": 2.0, "steps": 5}
    damping("schedule", **good)
    with pytest.raises(ValidationError, match=message):
        damping("schedule", **{**good, **fields})


def test_combinators_of_dampings():
    directions = directions_of([1.0, 2.0], [1.0, 1.0])
    marquardt, constant = {"kind": "marquardt", "mu": 2.0}, {"kind": "constant", "value": 3.0}
    of = [marquardt, constant]
    expected = {"maximum": [3.0, 4.0], "minimum": [2.0, 3.0], "sum": [5.0, 7.0]}
    for kind, values in expected.items():
        assert damping(kind, of=of)(directions).tolist() == values
        assert damping(kind, of=of).uniform(directions.context) is None
        assert damping(kind, of=[constant]).uniform(directions.context) == 3.0
    assert damping("scale", of=marquardt, factor=0.5)(directions).tolist() == [1.0, 2.0]
    assert damping("clamp", of=marquardt, lowest=2.5, highest=3.5)(directions).tolist() == [2.5, 3.5]
    still = {"kind": "bootstrap", "quantile": 0.0}
    noisy = typical_directions()
    left = damping(**still)(noisy).isinf()
    assert left.any()
    assert torch.equal(damping("clamp", of=still, highest=1.0)(noisy).isinf(), left)
    switch = damping("switch", before=constant, after=marquardt, at=2)
    assert switch(directions_of([1.0], [1.0], step=1)).tolist() == [3.0]
    assert switch(directions_of([1.0], [1.0], step=2)).tolist() == [2.0]
    with pytest.raises(ValidationError, match="highest is 1, but lowest is 2; give bounds in order"):
        damping("clamp", of=constant, lowest=2.0, highest=1.0)


DEFINED_BY_CURVATURE = ["gradient-noise", "bootstrap", "clip", "trust-region", "cubic", "marquardt", "snr-cutoff"]
DEFINED_BY_CURVATURE += ["smooth-pseudo-inverse", "gradient-norm"]


def test_where_there_is_no_curvature_there_is_no_step_without_damping():
    """Curvatures on other samples than the directions' can be zero: the step must not become infinite."""
    evals = torch.tensor([1.0, 2.0], dtype=torch.float64)
    lambdas = torch.tensor([[0.0, 2.0]] * 4, dtype=torch.float64)

    class Flat(Directions):
        loss_lambdas = property(lambda self: self.lambdas.mean(0))

    def flat(gammas):
        return Flat.from_tensors(evals, torch.eye(4, 2, dtype=torch.float64), gammas, lambdas)

    still, moving = torch.tensor([[0.0, 2.0]] * 4).double(), torch.tensor([[1.0, 2.0]] * 4).double()
    for kind in DEFINED_BY_CURVATURE:
        for gammas in (still, moving):
            deltas = damping(kind)(flat(gammas))
            assert (deltas + lambdas[0] > 0).all(), kind
            assert ((gammas[0] / (deltas + lambdas[0])).isfinite()).all(), kind


@pytest.mark.parametrize("samples", [4, 30], ids=["fewer columns than parameters", "more"])
def test_relative_to_the_trace_is_known_without_an_eigenvalue(samples):
    """Trace of the dense GGN over min(R, P); the same number with the criterion that needs eigenvectors."""
    from torch import nn

    from ddn_core import DirectionalDampedNewton
    from ddn_core.testing import dense_ggn

    torch.manual_seed(0)
    model, loss_function = nn.Sequential(nn.Linear(4, 5)).double(), nn.CrossEntropyLoss()
    X, y = torch.rand(samples, 4).double(), torch.randint(0, 5, (samples,))
    mean = float(dense_ggn(model, loss_function, X, y).trace()) / min(25, 5 * samples)
    table = {"kind": "relative", "fraction": 0.1, "of": "trace"}
    for criterion in ({"kind": "all"}, {"kind": "top-k", "k": 2}):
        group = {"params": ["*"], "criterion": criterion, "damping": table}
        optimizer = DirectionalDampedNewton(model.named_parameters(), [group], lr=1e-30)
        with optimizer.curvature():
            loss_function(model(X), y).backward()
        optimizer.step()
        (report,) = optimizer.last_step
        assert (report.uniform_damping is None) == (criterion["kind"] == "top-k")
        assert report.deltas.tolist() == pytest.approx([0.1 * mean] * len(report.deltas), rel=1e-9)
