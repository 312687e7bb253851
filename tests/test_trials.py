"""Steps that raise the loss, that are not finite, and parameters that no group takes."""

from __future__ import annotations

import copy
import itertools
import math
from collections import defaultdict
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import PrivateAttr
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ddn_core import DirectionalDampedNewton
from ddn_core.api import Damping, Outcome
from ddn_core.config import FallbackTable, StepConfig
from ddn_core.errors import ArgumentError, ConfigError, CurvatureError, NonFiniteError, StrategyError
from ddn_core.optim.fallback import FallbackUpdate, fallback_group
from ddn_core.optim.update import Verdict, settle
from ddn_core.plugins.resolve import validated

GROUP = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 0.5}}


@pytest.fixture
def problem(mlp):
    model, loss_function, inputs, targets = mlp
    return model.double(), loss_function, inputs.double(), targets


def train_step(optimizer, problem, closure=None):
    model, loss_function, inputs, targets = problem
    optimizer.zero_grad()
    with optimizer.curvature():
        loss_function(model(inputs), targets).backward()
    return optimizer.step(closure)


def flat(model):
    return parameters_to_vector(model.parameters()).detach().clone()


def loss_of(problem):
    model, loss_function, inputs, targets = problem
    return lambda: loss_function(model(inputs), targets)


class Doubling(Damping):
    """Damps twice as much after each step; remembers what it was told."""

    requires: ClassVar[frozenset[str]] = frozenset({"loss_after"})
    seen: ClassVar[list[Outcome]] = []
    _value: float = PrivateAttr(1.0)

    def damp(self, directions):
        return torch.full_like(directions.evals, self._value)

    def observe(self, outcome):
        self._value *= 2
        self.seen.append(outcome)


@pytest.mark.parametrize("rule", ["undo", "shorten", "damp", "search"])
def test_a_step_that_raises_the_loss_is_undone_exactly(problem, rule):
    """Whatever is tried: the numbers are the very same afterwards, and so is what momentum remembers."""
    group = {**GROUP, "momentum": 0.9, "memory": 0.5, "lr": 0.1}
    rules = {"on_increase": rule, "attempts": 3}
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), [group], step=rules)
    losses = itertools.chain([0.0], itertools.repeat(1e9))
    train_step(optimizer, problem, lambda: next(losses))  # this one is kept
    before, state = flat(problem[0]), copy.deepcopy(optimizer.state_dict()["state"])
    loss = float(loss_of(problem)().detach())
    assert train_step(optimizer, problem, lambda: next(losses)) == pytest.approx(loss)
    assert torch.equal(flat(problem[0]), before)
    assert optimizer.undone_steps == 1
    assert optimizer.last_step[0].taken == 0
    after = optimizer.state_dict()["state"]
    for key, tensors in state.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, after[key][name])


def test_a_loss_that_is_not_a_number_is_an_increase(problem):
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), step={"on_increase": "undo"})
    before = flat(problem[0])
    train_step(optimizer, problem, lambda: float("nan"))
    assert torch.equal(flat(problem[0]), before)


def test_shortening_halves_until_the_loss_falls(problem):
    rules = {"on_increase": "shorten", "attempts": 5, "shrink": 0.25}
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), [GROUP], step=rules)
    twin = copy.deepcopy(problem[0])
    before, losses = flat(problem[0]), iter([9.0, 8.0, 0.25])
    assert train_step(optimizer, problem, lambda: next(losses)) == 0.25
    train_step(DirectionalDampedNewton(twin.named_parameters(), [GROUP]), (twin, *problem[1:]))
    torch.testing.assert_close(flat(problem[0]) - before, (flat(twin) - before) / 16)
    assert optimizer.last_step[0].taken == 0.0625
    assert optimizer.undone_steps == 0


def test_a_shortened_step_shortens_decoupled_weight_decay(problem):
    group = {**GROUP, "lr": 0.5, "decoupled_weight_decay": 0.4}
    rules = {"on_increase": "shorten", "attempts": 5, "shrink": 0.25}
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), [group], step=rules)
    twin = copy.deepcopy(problem[0])
    before, losses = flat(problem[0]), iter([9.0, 8.0, 0.25])
    train_step(optimizer, problem, lambda: next(losses))
    train_step(DirectionalDampedNewton(twin.named_parameters(), [group]), (twin, *problem[1:]))
    torch.testing.assert_close(flat(problem[0]) - before, (flat(twin) - before) / 16)


def test_dampings_are_asked_anew_after_they_observed_the_failure(problem):
    Doubling.seen.clear()
    rules = {"on_increase": "damp", "attempts": 4}
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), [{**GROUP, "damping": Doubling()}], step=rules)
    twin = copy.deepcopy(problem[0])
    before, losses = flat(problem[0]), iter([9.0, 8.0, 0.25])
    train_step(optimizer, problem, lambda: next(losses))
    group = {**GROUP, "damping": {"kind": "constant", "value": 4.0}}
    train_step(DirectionalDampedNewton(twin.named_parameters(), [group]), (twin, *problem[1:]))
    torch.testing.assert_close(flat(problem[0]) - before, flat(twin) - before)
    assert [(outcome.taken, outcome.loss_after) for outcome in Doubling.seen] == [(0.0, 9.0), (0.0, 8.0), (1.0, 0.25)]
    assert {outcome.step for outcome in Doubling.seen} == {0}
    assert optimizer.undone_steps == 0


def test_levenberg_marquardt_with_retries_never_raises_the_loss(problem):
    """From a damping that is far too small, full batch: the loss falls in every step."""
    group = {**GROUP, "damping": {"kind": "levenberg-marquardt", "initial": 1e-6}}
    optimizer = DirectionalDampedNewton(
        problem[0].named_parameters(), [group], step={"on_increase": "damp", "attempts": 30}
    )
    losses = [float(loss_of(problem)().detach())]
    for _ in range(20):
        losses.append(train_step(optimizer, problem, loss_of(problem)))
    assert all(after <= before for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.05 * losses[0]


def test_outcomes_tell_of_the_whole_step_and_of_the_part_that_was_kept(problem):
    Doubling.seen.clear()
    optimizer = DirectionalDampedNewton(
        problem[0].named_parameters(), [{**GROUP, "damping": Doubling()}], step={"on_increase": "shorten"}
    )
    losses = iter([9.0, 0.25])
    train_step(optimizer, problem, lambda: next(losses))
    (outcome,) = Doubling.seen
    assert (outcome.taken, outcome.loss_after) == (0.5, 9.0)


def test_a_search_keeps_the_best_of_all_lengths(problem):
    """Twin: the loss at each length of the step, along a straight line in the space of the parameters."""
    model = problem[0]
    group = {**GROUP, "damping": {"kind": "constant", "value": 0.05}, "lr": 2.0, "momentum": 0.5, "max_step_norm": 8.0}
    rules = {"on_increase": "search", "attempts": 6, "shrink": 0.6}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], step=rules)
    twin = copy.deepcopy(model)
    plain = DirectionalDampedNewton(twin.named_parameters(), [group])
    lengths, taken, is_lower = [0.6**power for power in range(7)], [], []
    for _ in range(6):
        start, before = flat(model), float(loss_of(problem)().detach())
        vector_to_parameters(start.clone(), twin.parameters())  # the parameters become views
        plain.load_state_dict(optimizer.state_dict())
        train_step(plain, (twin, *problem[1:]))
        step, losses = flat(twin) - start, []
        for length in lengths:
            vector_to_parameters(start + length * step, twin.parameters())
            losses.append(float(loss_of((twin, *problem[1:]))().detach()))
        best = losses.index(min(losses))
        assert losses[best] < before
        assert train_step(optimizer, problem, loss_of(problem)) == pytest.approx(losses[best], rel=1e-12)
        assert optimizer.last_step[0].taken == pytest.approx(lengths[best])
        torch.testing.assert_close(flat(model), start + lengths[best] * step, rtol=1e-12, atol=1e-12)
        for own, other in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(
                optimizer.state[own]["momentum_buffer"], plain.state[other]["momentum_buffer"], rtol=1e-12, atol=1e-12
            )
        taken.append(best)
        is_lower.append(losses[0] < before)
    assert len(set(taken)) > 1
    assert any(best > 0 and lower for best, lower in zip(taken, is_lower, strict=True))  # `shorten` would keep it whole


class StraightMove:
    """The update of one parameter by a vector."""

    def __init__(self, parameter, move):
        self.parameters, self.move, self.commits = [parameter], move, 0

    def apply(self, factor):
        self.parameters[0].add_(self.move, alpha=factor)

    def commit(self, taken):
        self.commits += 1


@given(
    before=st.floats(-1e3, 1e3),
    losses=st.lists(st.floats() | st.floats(-1e3, 1e3), min_size=2, max_size=8),
    shrink=st.floats(0.1, 0.9),
    failing=st.none() | st.integers(0, 7),
)
def test_a_search_ends_at_the_lowest_finite_loss_or_where_it_began(before, losses, shrink, failing):
    """Whatever the closure returns: NaN and infinity on the way, equal losses, and an exception at any try."""
    start, move = torch.tensor([0.1, -3.0, 1e-3]), torch.tensor([1.0, 0.3, -7.0])
    plan = StraightMove(start.clone(), move)
    rules = StepConfig(on_increase="search", attempts=len(losses) - 1, shrink=shrink)
    seen = []

    def evaluate():
        seen.append(plan.parameters[0].clone())
        if len(seen) - 1 == failing:
            raise ZeroDivisionError
        return losses[len(seen) - 1]

    lengths = list(itertools.accumulate([1.0] + [shrink] * (len(losses) - 1), lambda length, factor: length * factor))
    places = [start.add(move, alpha=length) for length in lengths]
    if failing is not None and failing < len(losses):
        with pytest.raises(ZeroDivisionError):
            settle([plan], rules, before, evaluate)
        assert torch.equal(plan.parameters[0], start)
        assert plan.commits == 0
        assert len(seen) == failing + 1
        return
    verdict = settle([plan], rules, before, evaluate)
    assert all(torch.equal(*pair) for pair in zip(seen, places, strict=True))
    expected, place, loss = 0.0, start, before
    for length, there, value in zip(lengths, places, losses, strict=True):
        if math.isfinite(value) and value < loss:
            expected, place, loss = length, there, value
    assert (verdict.taken, verdict.loss) == (expected, loss)
    torch.testing.assert_close(verdict.loss_after, losses[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(plan.parameters[0], place)
    assert plan.commits == (expected > 0)


def test_a_search_keeps_the_longest_of_equal_lengths():
    plan = StraightMove(torch.zeros(1), torch.ones(1))
    losses = iter([3.0, 1.0, 1.0, 2.0])
    verdict = settle([plan], StepConfig(on_increase="search", attempts=3), 2.5, lambda: next(losses))
    assert verdict == Verdict(0.5, 3.0, 1.0)
    assert plan.parameters[0].item() == 0.5


@pytest.mark.parametrize(
    ("rule", "losses", "taken"),
    [
        ("undo", [2.0], 1.0),
        ("undo", [2.1], 0.0),
        ("shorten", [3.0, 1.6, 1.2], 0.25),
        ("shorten", [3.0, 1.6, 1.3], 0.0),
        ("search", [2.5, 1.4, 1.3], 0.5),
        ("search", [2.5, 1.6, 1.3], 0.0),
    ],
)
def test_a_part_of_a_step_may_be_raised_the_loss_by_that_part_of_what_the_whole_may(rule, losses, taken):
    """From a loss of 1 to one of 2 for the whole step: half of it may end at 1.5, a quarter at 1.25."""
    plan, values = StraightMove(torch.zeros(1), torch.ones(1)), iter(losses)
    verdict = settle([plan], StepConfig(on_increase=rule, attempts=2), 1.0, lambda: next(values), limit=2.0)
    assert (verdict.taken, verdict.loss_after) == (taken, losses[0])
    assert plan.parameters[0].item() == taken
    assert plan.commits == (taken > 0)


def test_outcomes_of_a_search_tell_of_the_whole_step(problem):
    """Also where a shorter step is better: the ratio of an adaptive damping is about the step that it damped."""
    Doubling.seen.clear()
    optimizer = DirectionalDampedNewton(
        problem[0].named_parameters(),
        [{**GROUP, "damping": Doubling()}],
        step={"on_increase": "search", "attempts": 3},
    )
    losses = iter([0.5, float("nan"), 0.25, 0.75])
    assert train_step(optimizer, problem, lambda: next(losses)) == 0.25
    (outcome,) = Doubling.seen
    assert (outcome.taken, outcome.loss_after) == (0.25, 0.5)
    assert optimizer.undone_steps == 0


@pytest.mark.parametrize("rule", ["undo", "shorten", "damp", "search"])
def test_rules_need_a_closure(problem, rule):
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), step={"on_increase": rule})
    before = flat(problem[0])
    with pytest.raises(ArgumentError, match=rf"step.on_increase = '{rule}' requires the loss after the step"):
        train_step(optimizer, problem)
    assert torch.equal(flat(problem[0]), before)


def test_a_closure_that_fails_leaves_the_parameters_where_they_were(problem):
    optimizer = DirectionalDampedNewton(
        problem[0].named_parameters(), [{**GROUP, "momentum": 0.9}], step={"on_increase": "undo"}
    )
    before = flat(problem[0])
    with pytest.raises(ZeroDivisionError):
        train_step(optimizer, problem, lambda: 1 / 0)
    with pytest.raises(
        ArgumentError, match="the closure returned None instead of the loss, and the step has been undone"
    ):
        train_step(optimizer, problem, lambda: None)
    assert torch.equal(flat(problem[0]), before)
    assert not optimizer.state


def test_what_a_closure_does_to_gradients_is_undone(problem):
    model = problem[0]
    optimizer = DirectionalDampedNewton(model.named_parameters(), step={"on_increase": "undo"})

    def closure():
        optimizer.zero_grad()
        loss = loss_of(problem)()
        loss.backward()
        return loss

    optimizer.zero_grad()
    with optimizer.curvature():
        loss_of(problem)().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    optimizer.step(closure)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_a_closure_may_call_the_backward_of_the_optimizer(problem):
    """Its pass after the step gives no curvature, and the steps are those of a closure without backward."""
    steps = {"on_increase": "shorten"}
    other = copy.deepcopy(problem)
    one, two = (DirectionalDampedNewton(own[0].named_parameters(), [GROUP], step=steps) for own in (problem, other))

    def closure():
        one.zero_grad()
        loss = loss_of(problem)()
        one.backward(loss)
        return loss

    for _ in range(3):
        train_step(one, problem, closure)
        train_step(two, other, loss_of(other))
        assert torch.equal(flat(problem[0]), flat(other[0]))


def test_a_closure_alone_is_enough(problem):
    """As with torch's own optimizers: it computes the gradient, and curvature comes with it."""
    model, loss_function, inputs, targets = problem
    twin = copy.deepcopy(model)
    optimizer = DirectionalDampedNewton(model.named_parameters(), [GROUP])
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = loss_function(model(inputs), targets)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    assert len(calls) == 2
    other = DirectionalDampedNewton(twin.named_parameters(), [GROUP])
    for _ in range(2):
        train_step(other, (twin, *problem[1:]))
    assert torch.equal(flat(model), flat(twin))
    with pytest.raises(CurvatureError, match="needs a curvature pass"):
        optimizer.step(lambda: loss_function(model(inputs), targets))  # no backward


def overflowing(on_nonfinite):
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    group = {**GROUP, "damping": {"kind": "constant", "value": 0.0}}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], step={"on_nonfinite": on_nonfinite})
    good = (model, nn.MSELoss(), torch.ones(1, 1), torch.zeros(1, 1))
    bad = (*good[:2], torch.full((1, 1), 1e-18), torch.full((1, 1), 1e19))
    return optimizer, good, bad


def test_a_step_that_is_not_finite_is_an_error_by_default():
    optimizer, _, bad = overflowing("error")
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        train_step(optimizer, bad)
    assert optimizer.skipped_steps == 0


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    optimizer, good, bad = overflowing("skip")
    before = flat(good[0])
    assert torch.tensor(train_step(optimizer, bad)).isnan()
    assert torch.equal(flat(good[0]), before)
    assert (optimizer.skipped_steps, optimizer.last_step) == (1, ())
    train_step(optimizer, good)
    assert not torch.equal(flat(good[0]), before)
    assert optimizer.skipped_steps == 1
    assert optimizer.state_dict()["ddn"]["skipped_steps"] == 1


@pytest.mark.parametrize("accumulate", [False, True])
def test_a_loss_that_is_not_finite_is_skipped_and_counted(accumulate):
    """The loop goes on: backward does not raise. Of micro-batches, one that is bad is enough."""
    optimizer, good, _ = overflowing("skip")
    before = flat(good[0])
    for target in (float("nan"), 0.0) if accumulate else (float("nan"),):
        with optimizer.curvature(accumulate=accumulate):
            good[1](good[0](good[2]), torch.full((1, 1), target)).backward()
    optimizer.step()
    assert torch.equal(flat(good[0]), before)
    assert optimizer.skipped_steps == 1
    train_step(optimizer, good)
    assert optimizer.skipped_steps == 1


def test_parameters_beyond_the_range_are_not_taken():
    """The step is finite, and so is the parameter; their sum is not."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    model[0].weight.data.fill_(3e38)
    optimizer = DirectionalDampedNewton(model.named_parameters(), [GROUP], lr=3e38)
    before = flat(model)
    with pytest.raises(NonFiniteError, match="group 0: lr times the step is not finite"):
        train_step(optimizer, (model, nn.MSELoss(), torch.full((1, 1), 1e-20), torch.full((1, 1), 1e19)))
    assert torch.equal(flat(model), before)


OTHERS = {
    "sgd": ({"kind": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True}, torch.optim.SGD),
    "adamw": ({"kind": "adamw", "lr": 0.01, "betas": [0.8, 0.9]}, torch.optim.AdamW),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_fallback_moves_what_no_group_takes_as_torch_does(problem, name):
    table, kind = OTHERS[name]
    model = problem[0]
    twin = copy.deepcopy(model)
    group = {**GROUP, "params": ["0.*"], "lr": 0.1}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], fallback=table)
    assert [group.get("fallback") for group in optimizer.param_groups] == [None, name]
    ours = DirectionalDampedNewton(twin[0].named_parameters(), [{**group, "params": ["*"]}])
    options = {key: value for key, value in table.items() if key != "kind"}
    theirs = kind(twin[2].parameters(), **options)
    for _ in range(4):
        train_step(optimizer, problem)
        theirs.zero_grad()
        train_step(ours, (twin, *problem[1:]))
        theirs.step()
    assert torch.equal(flat(model), flat(twin))
    assert len(optimizer.last_step) == 1


@pytest.mark.parametrize("name", OTHERS)
def test_a_planned_update_of_the_fallback_changes_nothing_before_its_commit(name):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(3))
    settings, _ = OTHERS[name]
    group = fallback_group(validated(FallbackTable, {"fallback": settings}, "test").fallback, [("w", parameter)])
    group["params"], state = [parameter], defaultdict(dict)
    for _ in range(2):
        parameter.grad = torch.randn(3)
        value, before = parameter.detach().clone(), [copy.deepcopy(own) for own in state.values()]
        update = FallbackUpdate(group, [parameter.grad], state, "group 0")
        assert torch.equal(parameter, value)
        torch.testing.assert_close(list(state.values()), before, rtol=0, atol=0)
        update.commit(1.0)
        assert torch.equal(parameter, value)
        assert list(state) == [parameter]
        update.apply(1.0)
        assert not torch.equal(parameter, value)
    assert before
    with pytest.raises(AssertionError):
        torch.testing.assert_close(list(state.values()), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", OTHERS)
def test_the_fallback_goes_on_from_a_saved_state(problem, name):
    group = {**GROUP, "params": ["0.*"], "lr": 0.1, "momentum": 0.5}
    ends = []
    for saved_after in (None, 2):
        model = copy.deepcopy(problem[0])
        make = lambda: DirectionalDampedNewton(model.named_parameters(), [group], fallback=OTHERS[name][0])  # noqa: B023, E731
        optimizer = make()
        for step in range(4):
            if step == saved_after:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = make()
                optimizer.load_state_dict(state)
            train_step(optimizer, (model, *problem[1:]))
        ends.append(flat(model))
    assert torch.equal(*ends)
    other = DirectionalDampedNewton(
        model.named_parameters(), [group], fallback=OTHERS["sgd" if name == "adamw" else "adamw"][0]
    )
    with pytest.raises(ArgumentError, match=r"has fallbacks .* for its groups"):
        other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("name", OTHERS)
def test_the_fallback_takes_part_in_all_or_nothing(problem, name):
    """Undone with the others, its state too; and where it is not finite, nobody moves."""
    model = problem[0]
    group = {**GROUP, "params": ["0.*"]}
    rules = {"on_increase": "undo"}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], fallback=OTHERS[name][0], step=rules)
    train_step(optimizer, problem, lambda: 0.0)
    before, state = flat(model), copy.deepcopy(optimizer.state_dict())
    train_step(optimizer, problem, lambda: 1e9)
    assert torch.equal(flat(model), before)
    for key, entries in state["state"].items():
        for entry, value in entries.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(optimizer.state_dict()["state"][key][entry]))
    optimizer.param_groups[1]["lr"] = 1e308
    optimizer.param_groups[1]["weight_decay"] = 1e308
    with pytest.raises(NonFiniteError, match="group 1"):
        train_step(optimizer, problem, lambda: 0.0)
    assert torch.equal(flat(model), before)


def test_a_strategy_that_fails_leaves_the_fallback_alone(problem):
    model = problem[0]
    groups = [{**GROUP, "params": ["0.*"], "damping": lambda evals, *_: evals.new_full((1,), float("nan"))}]
    optimizer = DirectionalDampedNewton(model.named_parameters(), groups, fallback=OTHERS["adamw"][0])
    before = flat(model)
    with pytest.raises(StrategyError, match="group 0: damping"):
        train_step(optimizer, problem)
    assert torch.equal(flat(model), before)
    assert not optimizer.state


def test_schedulers_reach_the_fallback(problem):
    group = {**GROUP, "params": ["0.*"]}
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), [group], fallback=OTHERS["sgd"][0])
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    train_step(optimizer, problem)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]


def test_a_fallback_without_anything_left_is_no_group(problem):
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), [GROUP], fallback=OTHERS["sgd"][0])
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fallback": {"kind": "adagrad"}}, "'adagrad' is not among"),
        ({"fallback": {"kind": "sgd"}}, r"fallback\.lr: "),
        ({"fallback": {"kind": "sgd", "lr": 1.0, "nesterov": True}}, "nesterov is true, but momentum is 0"),
        ({"fallback": {"kind": "sgd", "lr": -1.0}}, r"fallback\.lr: "),
        ({"step": {"on_increase": "explode"}}, "step: on_increase"),
        ({"step": {"attempts": 0}}, "step: attempts"),
        ({"step": {"shrink": 1.0}}, "step: shrink"),
        ({"step": {"on_nonfinte": "skip"}}, "Did you mean 'on_nonfinite'"),
    ],
)
def test_wrong_tables_are_told(problem, settings, message):
    with pytest.raises(ConfigError, match=message):
        DirectionalDampedNewton(problem[0].named_parameters(), [GROUP], **settings)


def test_a_step_that_was_made_is_counted_though_its_closure_failed(problem):
    """Under `keep`: the pass is used up, so that the next step cannot go along a stale gradient."""
    group = {**GROUP, "damping": {"kind": "levenberg-marquardt"}, "momentum": 0.5}
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), [group])
    before = flat(problem[0])
    with pytest.raises(ArgumentError, match="the step has been made"):
        train_step(optimizer, problem, lambda: "x")
    assert not torch.equal(flat(problem[0]), before)
    assert optimizer.state_dict()["ddn"]["step_count"] == 1
    with pytest.raises(CurvatureError, match="needs a curvature pass"):
        optimizer.step()


@pytest.mark.parametrize("bad", ["directions", "derivatives"])
@pytest.mark.parametrize("first", ["directions", "derivatives"])
def test_of_two_batches_a_bad_one_is_enough(first, bad):
    optimizer, good, _ = overflowing("skip")
    before = flat(good[0])
    for part in (first, "derivatives" if first == "directions" else "directions"):
        target = torch.full((1, 1), float("nan") if part == bad else 0.0)
        with optimizer.curvature(part):
            good[1](good[0](good[2]), target).backward()
    optimizer.step()
    assert torch.equal(flat(good[0]), before)
    assert optimizer.skipped_steps == 1
    train_step(optimizer, good)
    assert optimizer.skipped_steps == 1


def test_a_fallback_that_fails_half_way_leaves_everything_as_it_was(problem):
    model = problem[0]
    group = {**GROUP, "params": ["2.bias"]}
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], fallback=OTHERS["sgd"][0])
    train_step(optimizer, problem)
    broken = model[2].weight  # the last of the fallback's
    optimizer.state[broken]["momentum_buffer"] = torch.ones(99, dtype=torch.float64)
    before, state = flat(model), copy.deepcopy(optimizer.state_dict()["state"])
    with pytest.raises(CurvatureError, match=r"group 1: .* No parameter has been touched"):
        train_step(optimizer, problem)
    assert torch.equal(flat(model), before)
    for key, entries in optimizer.state_dict()["state"].items():
        assert torch.equal(entries["momentum_buffer"], state[key]["momentum_buffer"])


def test_the_limit_is_kept_where_curvature_is_of_another_batch(problem):
    """Its eigenvectors are not the directions: the whole quadratic form counts."""
    model, loss_function, X, y = problem
    found = []
    for momentum in (0.0, 1e-12):  # momentum is measured exactly in any case
        own = copy.deepcopy(model)
        group = {**GROUP, "damping": {"kind": "constant", "value": 0.01}, "max_kl": 1e-3, "momentum": momentum}
        optimizer = DirectionalDampedNewton(own.named_parameters(), [group])
        for part, rows in (("directions", slice(0, 4)), ("derivatives", slice(4, 8))):
            optimizer.zero_grad()
            with optimizer.curvature(part):
                loss_function(own(X[rows]), y[rows]).backward()
        optimizer.step()
        found.append(optimizer.last_step[0].clip)
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] < 1
