"""Every built-in strategy keeps the contract, and the checks notice one that does not."""

from __future__ import annotations

from collections import deque
from typing import Annotated, ClassVar, Literal

import pytest
import torch
from pydantic import BaseModel, Field, PrivateAttr, TypeAdapter, model_validator

from ddn_core.api import AnyCriterion, AnyDamping, Criterion, Damping, Unit
from ddn_core.errors import ArgumentError, StrategyError
from ddn_core.testing import check_names, check_strategy, parametrize_with_checks
from ddn_core.testing.checks import ALL_CHECKS

pytest_plugins = ["pytester"]

DAMPINGS = [
    {"kind": "constant", "value": 0.5},
    {"kind": "relative", "fraction": 0.1},
    {"kind": "relative", "fraction": 0.1, "of": "mean"},
    {"kind": "relative", "fraction": 0.1, "of": "trace"},
    {"kind": "marquardt", "mu": 0.3},
    {"kind": "levenberg-marquardt"},
    {"kind": "trust-region", "radius": 0.7},
    {"kind": "cubic"},
    {"kind": "gradient-norm"},
    {"kind": "gradient-noise"},
    {"kind": "snr-cutoff"},
    {"kind": "smooth-pseudo-inverse"},
    {"kind": "bootstrap"},
    {"kind": "clip"},
    {"kind": "evidence"},
    {"kind": "evidence", "samples": 1000},
    {
        "kind": "schedule",
        "of": {"kind": "constant"},
        "field": "value",
        "values": {"shape": "linear", "first": 2.0, "last": 0.1, "steps": 50},
    },
    {
        "kind": "schedule",
        "of": {"kind": "trust-region"},
        "field": "shrink",
        "values": {"shape": "piecewise", "points": [[0, 0.5], [10, 0.25]]},
    },
    {"kind": "fresh-batch"},
    {"kind": "maximum", "of": [{"kind": "constant", "value": 0.5}, {"kind": "relative", "fraction": 0.1}]},
    {"kind": "maximum", "of": [{"kind": "constant", "value": 0.5}, {"kind": "gradient-norm"}]},
    {"kind": "minimum", "of": [{"kind": "levenberg-marquardt"}, {"kind": "gradient-noise"}]},
    {"kind": "sum", "of": [{"kind": "constant", "value": 0.5}, {"kind": "levenberg-marquardt"}]},
    {"kind": "scale", "of": {"kind": "cubic"}, "factor": 2.0},
    {"kind": "clamp", "of": {"kind": "clip"}, "lowest": 0.1, "highest": 2.0},
    {"kind": "clamp", "of": {"kind": "levenberg-marquardt"}, "lowest": 0.1},
    {"kind": "switch", "before": {"kind": "constant"}, "after": {"kind": "levenberg-marquardt"}, "at": 3},
]
CRITERIA = [
    {"kind": "all"},
    {"kind": "top-k", "k": 3},
    {"kind": "top-k", "k": "outputs"},
    {"kind": "threshold", "value": 0.01},
    {"kind": "relative-threshold", "ratio": 0.1},
    {"kind": "energy"},
    {"kind": "eigengap"},
    {"kind": "bulk-edge"},
    {"kind": "effective-dimension"},
    {"kind": "snr", "bound": 1.0},
    {"kind": "snr", "of": "curvature", "bound": 3.0},
    {"kind": "gain"},
    {"kind": "gradient-overlap"},
    {"kind": "gradient-overlap", "fraction": 1.0, "k": 4},
    {"kind": "random", "k": 4},
    {"kind": "all-of", "of": [{"kind": "top-k", "k": 3}, {"kind": "threshold", "value": 1.0}]},
    {"kind": "all-of", "of": [{"kind": "top-k", "k": 3}, {"kind": "eigengap"}]},
    {"kind": "any-of", "of": [{"kind": "top-k", "k": 1}, {"kind": "snr"}]},
    {"kind": "none-of", "of": [{"kind": "top-k", "k": 2}, {"kind": "random", "k": 3}]},
    {"kind": "at-least", "of": {"kind": "snr", "bound": 3.0}, "count": 5},
    {"kind": "at-most", "of": {"kind": "snr", "bound": 1.0}, "count": 2},
    {"kind": "at-most", "of": {"kind": "all"}, "count": 4},
]
STRATEGIES = [
    *map(TypeAdapter(AnyDamping).validate_python, DAMPINGS),
    *map(TypeAdapter(AnyCriterion).validate_python, CRITERIA),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: f"{strategy.family} {strategy.kind}")
def test_built_in(strategy):
    check_strategy(strategy)


def test_every_built_in_is_checked():
    import ddn_plugins.criteria
    import ddn_plugins.damping

    checked = {type(strategy) for strategy in STRATEGIES}
    assert checked == {*ddn_plugins.criteria.ALL, *ddn_plugins.damping.ALL}


# The checks can fail


class Good(Damping, kind="acme/good"):
    """δ_k = value."""

    value: Annotated[float, Unit("loss/param²")] = Field(1.0, gt=0, description="Damping.")

    def damp(self, directions):
        return torch.full_like(directions.evals, self.value)


class Undescribed(Good, kind="acme/undescribed"):
    """Has a field without description."""

    value: Annotated[float, Unit("loss/param²")] = 1.0


class Unitless(Good, kind="acme/unitless"):
    """Has a field without unit."""

    value: float = Field(1.0, description="Damping.")


class Undocumented(Good, kind="acme/undocumented"):
    value: Annotated[float, Unit("loss/param²")] = Field(1.0, description="Damping.")


class Nameless(Good):
    """Has no kind."""


class BadDefault(Good, kind="acme/bad-default"):
    """Has a default for which it does not answer."""

    value: Annotated[float, Unit("loss/param²")] = Field(-100.0, description="Damping.")


class Unbounded(Good, kind="acme/unbounded"):
    """Has a bound that is not kept."""

    def __init__(self, **fields):
        super().__init__(**{**fields, "value": abs(fields["value"]) or 1.0})

    @model_validator(mode="wrap")
    @classmethod
    def _lenient(cls, value, handler):
        fields = value if isinstance(value, dict) else {}
        number = fields.get("value", 1.0)
        return handler({"value": number if isinstance(number, float) and number > 0 else 1.0})


class Drawn(Good, kind="acme/drawn"):
    """Draws from torch's own generator."""

    def damp(self, directions):
        return torch.rand_like(directions.evals)


class Double(Good, kind="acme/double"):
    """Answers in float64."""

    def damp(self, directions):
        return directions.evals.double()


class InPlace(Good, kind="acme/in-place"):
    """Works in place."""

    def damp(self, directions):
        return directions.evals.mul_(2)


class Deviation(Good, kind="acme/deviation"):
    """Takes a standard deviation, which one sample does not have."""

    def damp(self, directions):
        return directions.gammas.std(0).square()


class Absolute(Good, kind="acme/absolute"):
    """Adds a number without unit to one with unit."""

    def damp(self, directions):
        return 1.0 + directions.evals


class First(Good, kind="acme/first"):
    """Looks at the first sample."""

    def damp(self, directions):
        return directions.lambdas[0]


class Signed(Good, kind="acme/signed"):
    """Looks at the sign of a direction."""

    def damp(self, directions):
        return directions.evals * (1 + (directions.loss_gammas > 0))


class Untrue(Good, kind="acme/untrue"):
    """Says beforehand what it does not answer."""

    def uniform(self, context):
        return 17.0


class Forgetful(Good, kind="acme/forgetful"):
    """Does not save its state."""

    _count: int = PrivateAttr(0)

    def damp(self, directions):
        return torch.full_like(directions.evals, self.value * (1 + self._count))

    def observe(self, outcome):
        self._count += 1

    def load_state_dict(self, state):
        pass


class Sharing(Good, kind="acme/sharing"):
    """Shares its state with all copies."""

    counts: ClassVar[list[int]] = []

    def damp(self, directions):
        return torch.full_like(directions.evals, self.value * (1 + len(self.counts)))

    def observe(self, outcome):
        self.counts.append(1)


class Greedy(Criterion, kind="acme/greedy"):
    """Says that it needs fewer directions than it looks at."""

    def leading_directions(self, context):
        return 2

    def select(self, directions):
        return [len(directions) // 2]


class Picky(Criterion, kind="acme/picky"):
    """Says that it keeps all."""

    def keeps_all(self):
        return True

    def select(self, directions):
        return [0]


class InPlaceLoss(Good, kind="acme/in-place-loss"):
    """Changes what the step is made of."""

    def damp(self, directions):
        return directions.evals + 0 * directions.loss_gammas.abs_()


class Initial(Good, kind="acme/initial"):
    """Tells beforehand what it damped with at first."""

    _delta: float = PrivateAttr(1.0)

    def uniform(self, context):
        return self.value

    def damp(self, directions):
        return torch.full_like(directions.evals, self._delta)

    def observe(self, outcome):
        self._delta *= 2


class Unasked(Good, kind="acme/unasked"):
    """Reads the loss after the step without requiring it."""

    def observe(self, outcome):
        assert outcome.loss_before - outcome.loss_after < 1e9


class Forward(Good, kind="acme/forward"):
    """Fails once there is a last outcome."""

    def damp(self, directions):
        return torch.full_like(directions.evals, self.value if directions.context.last is None else -1e9)


class Phase(BaseModel):
    """A table with a strategy in it."""

    damping: AnyDamping


class Phased(Damping, kind="acme/phased"):
    """A combinator whose strategies are in tables of its own: a correct one."""

    phases: list[Phase] = Field(description="Phases.")

    def damp(self, directions):
        return sum(phase.damping(directions) for phase in self.phases)


class Varied(Damping, kind="acme/varied"):
    """A correct one with fields of many types, and a tensor as its state."""

    bound: Annotated[float, Unit("loss/param²")] | None = Field(None, description="Bound.")
    either: Annotated[float | Literal["mean"], Unit("loss/param²")] = Field("mean", description="Number or word.")
    several: list[Annotated[float, Unit("loss/param²")]] = Field([1.0, 2.0], description="Numbers.")
    named: Annotated[dict[str, float], Unit("loss/param²")] = Field({"a": 1.0}, description="Numbers by name.")
    lam: Annotated[float, Unit("1")] = Field(
        1.0, gt=0, alias="lambda", description="A field with another name in a file."
    )
    needed: Annotated[float, Unit("1")] = Field(alias="required", description="A required field with another name.")
    text: int | str = Field("x", description="Anything.")
    flag: bool = Field(True, description="Switch.")

    _history: torch.Tensor = PrivateAttr(default_factory=lambda: torch.ones(3))

    def damp(self, directions):
        mean = directions.evals.mean() if self.either == "mean" else self.either
        total = mean + sum(self.several) + self.named["a"] + (self.bound or 0.0)
        return torch.full_like(directions.evals, float(self.lam * self._history.sum() * total))

    def observe(self, outcome):
        self._history = self._history * 2


@pytest.mark.parametrize(
    "strategy",
    [
        Phased(phases=[{"damping": {"kind": "levenberg-marquardt"}}, {"damping": {"kind": "constant"}}]),
        Varied(required=1.0),
        Varied(**{"required": 1.0, "bound": 2.0, "either": 3.0, "lambda": 2.0}),
    ],
    ids=["nested tables", "defaults", "all set"],
)
def test_unusual_strategies_that_keep_the_contract(strategy):
    check_strategy(strategy)


def test_strategies_inside_of_tables_are_told_and_saved():
    strategy = Phased(phases=[{"damping": {"kind": "levenberg-marquardt"}}])
    assert strategy.all_requirements() == {"loss_after"}
    assert not strategy.ignores_outcomes()
    assert set(strategy.state_dict()["inner"]) == {"phases.0.damping"}


class Optional(Good, kind="acme/optional"):
    """Has an optional number without unit."""

    limit: float | None = Field(None, description="Limit.")


class Bounded(Good, kind="acme/bounded"):
    """Has a bound in a unit."""

    value: Annotated[float, Unit("loss/param²")] = Field(1.0, gt=0, le=100, description="Damping.")


class Hoarding(Good, kind="acme/hoarding"):
    """Returns a tensor that it changes later."""

    _deltas: torch.Tensor = PrivateAttr(default_factory=lambda: torch.ones(0))

    def damp(self, directions):
        if self._deltas.shape != directions.evals.shape or self._deltas.dtype != directions.evals.dtype:
            self._deltas = torch.full_like(directions.evals, self.value)
        return self._deltas

    def observe(self, outcome):
        self._deltas.mul_(2)


class Keeping(Good, kind="acme/keeping"):
    """Keeps a tensor of the directions, and changes it later."""

    _evals: torch.Tensor = PrivateAttr(default_factory=lambda: torch.ones(0))

    def damp(self, directions):
        self._evals = directions.evals
        return torch.full_like(directions.evals, self.value)

    def observe(self, outcome):
        self._evals.mul_(2)


class Growing(Good, kind="acme/growing"):
    """Changes a list that is a field."""

    several: list[Annotated[float, Unit("loss/param²")]] = Field([], description="Dampings.")

    def damp(self, directions):
        self.several.append(self.value)
        return torch.full_like(directions.evals, self.value)


class Windowed(Good, kind="acme/windowed"):
    """Keeps a state that no checkpoint can be read with."""

    _last: deque[float] = PrivateAttr(default_factory=deque)

    def observe(self, outcome):
        self._last.append(outcome.loss_before)


class Never(Criterion, kind="acme/never"):
    """Keeps nothing."""

    def select(self, directions):
        return []


BROKEN = {
    Hoarding: ("check_result_stays_as_it_is", "a later step changed what `damp` returned"),
    Keeping: ("check_changes_no_input", "evals was changed in place after the call"),
    Growing: ("check_changes_no_input", "the fields .* were changed"),
    Windowed: ("check_state_is_saved", "its state has a value of type collections.deque in '_last'"),
    Never: ("check_keeps_a_direction", "`select` never keeps a direction"),
    InPlaceLoss: ("check_changes_no_input", "changed `loss_gammas` of the directions in place"),
    Initial: ("check_shortcuts_are_true", "`uniform` and `damp` disagree"),
    Unasked: ("check_state_is_saved", "reads the loss after the step .*but does not declare it"),
    Forward: ("check_takes_difficult_directions", "a step after another, torch.float32: .*their sum must be positive"),
    Optional: ("check_is_documented", "field 'limit' states no unit"),
    Bounded: ("check_scales_with_the_loss", "its fields are invalid"),
    Undescribed: ("check_is_documented", "field 'value' has no description"),
    Unitless: ("check_is_documented", "field 'value' states no unit"),
    Undocumented: ("check_is_documented", "has no docstring"),
    Nameless: ("check_is_documented", "has no kind"),
    BadDefault: ("check_defaults_are_valid", "their sum must be positive"),
    Unbounded: ("check_bad_fields_are_refused", "is accepted"),
    Drawn: ("check_answers_alike_twice", "a second call returns another result"),
    Double: ("check_keeps_dtype_and_device", "dampings of torch.float64"),
    InPlace: ("check_changes_no_input", "changed `evals` of the directions in place"),
    Deviation: ("check_takes_difficult_directions", "one sample, torch.float32: damping 'acme/deviation'"),
    Absolute: ("check_scales_with_the_loss", "losses 1.04858e\\+06 and parameters 1 times as large"),
    First: ("check_order_of_samples_does_not_matter", "the order of the samples matters"),
    Signed: ("check_sign_of_directions_does_not_matter", "the sign of a direction matters"),
    Untrue: ("check_shortcuts_are_true", "`uniform` and `damp` disagree"),
    Greedy: ("check_shortcuts_are_true", "from the 2 leading directions alone, `select` chooses others"),
    Picky: ("check_shortcuts_are_true", "`keeps_all` returns True, but `select` does not keep all directions"),
    Forgetful: ("check_state_is_saved", "after the state was loaded, the result differs"),
    Sharing: ("check_copies_share_no_state", "the strategy adapted to an outcome that only its copy observed"),
}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_strategy_is_noticed(cls):
    name, message = BROKEN[cls]
    strategy = cls(value=1.0) if cls is Unbounded else cls()
    (check,) = (check for check in ALL_CHECKS if check.__name__ == name)
    with pytest.raises((AssertionError, StrategyError), match=message):
        check(strategy)


def test_every_check_can_fail():
    can_fail = {name for name, _ in BROKEN.values()}
    # units of param go through the same function as those of loss, and what makes no table makes no strategy either
    assert set(check_names()) - can_fail == {"check_scales_with_the_parameters", "check_table_makes_an_equal_strategy"}


def test_check_strategy_runs_all():
    check_strategy(Good())
    with pytest.raises(
        AssertionError, match="check_order_of_samples_does_not_matter: the order of the samples matters"
    ):
        check_strategy(First())
    check_strategy(First(), without=["check_order_of_samples_does_not_matter"])
    with pytest.raises(ArgumentError, match=r"there is no check 'check_nothing'\. Use one of check_is_documented"):
        check_strategy(Good(), without=["check_nothing"])


def test_expected_failures_are_strict(pytester):
    """In a run of pytest inside this one: one fails as expected, one passes although a failure was expected."""
    pytester.makepyfile(
        """
        from tests.test_contract import First, Good
        from ddn_core.testing import parametrize_with_checks
        reason = {"check_order_of_samples_does_not_matter": "it looks at the first sample"}

        @parametrize_with_checks([Good(), First()], {"acme/first": reason})
        def test_expected(strategy, check):
            check(strategy)

        @parametrize_with_checks([Good()], {"acme/good": reason})
        def test_stale(strategy, check):
            check(strategy)
        """
    )
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1, passed=3 * len(check_names()) - 2, xfailed=1)
    for wrong in ({"acme/first": {"check_nothing": "?"}}, {"acme/other": {}}):
        with pytest.raises(ArgumentError):
            parametrize_with_checks([First()], wrong)
