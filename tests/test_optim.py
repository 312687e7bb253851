"""`DirectionalDampedNewton` as a torch optimizer."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings
from typing import ClassVar

import pytest
import torch
from pydantic import PrivateAttr
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewton
from ddn_core.api import AnyDamping, Damping, Outcome
from ddn_core.config import parse_config
from ddn_core.config.provenance import resolved_config
from ddn_core.errors import ArgumentError, ConfigError, CurvatureError, DdnError, StrategyError
from ddn_core.testing import dense_twin

GROUP = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 0.5}}


@pytest.fixture
def problem(mlp):
    model, loss_function, inputs, targets = mlp
    return model.double(), loss_function, inputs.double(), targets


def train_step(optimizer, problem, closure=None):
    model, loss_function, inputs, targets = problem
    optimizer.zero_grad()
    loss = loss_function(model(inputs), targets)
    optimizer.backward(loss)
    optimizer.step(closure)
    return float(loss.detach())


def test_step_is_the_damped_newton_step(problem):
    model, loss_function, inputs, targets = problem
    twin = dense_twin(model, loss_function, inputs, targets)
    kept = (twin.evals > 1e-12 * twin.evals.max()).nonzero()[:, 0].tolist()
    before = parameters_to_vector(model.parameters()).detach().clone()
    train_step(DirectionalDampedNewton(model.named_parameters(), [GROUP], lr=0.7), problem)
    after = parameters_to_vector(model.parameters()).detach()
    torch.testing.assert_close(after - before, 0.7 * twin.step(kept, 0.5), rtol=1e-6, atol=1e-9)


def test_loss_goes_down(problem):
    group = {**GROUP, "damping": {"kind": "constant", "value": 0.1}}
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), [group], lr=0.5)
    losses = [train_step(optimizer, problem) for _ in range(60)]
    assert losses[-1] < 0.3 * losses[0]


def test_groups_by_globs_tensors_and_config_agree(mlp):
    torch_model, loss_function, inputs, targets = mlp
    results = []
    for kind in ("globs", "tensors", "config"):
        model = copy.deepcopy(torch_model)
        head = {"criterion": {"kind": "top-k", "k": 2}, "damping": {"kind": "constant", "value": 0.1}, "lr": 0.5}
        rest = {"criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 1.0}}
        globs = [{"params": ["2.*"], **head}, {"params": ["*"], **rest}]
        tensors = [{"params": list(model[2].parameters()), **head}, {"params": list(model[0].parameters()), **rest}]
        groups = {"globs": globs, "tensors": tensors, "config": parse_config({"groups": globs})}[kind]
        optimizer = DirectionalDampedNewton(model.named_parameters(), groups=groups)
        train_step(optimizer, (model, loss_function, inputs, targets))
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.0]
        assert [group["param_names"] for group in optimizer.param_groups] == [
            ["2.weight", "2.bias"],
            ["0.weight", "0.bias"],
        ]
        results.append(parameters_to_vector(model.parameters()).detach())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_parameter_belongs_to_the_first_group_that_names_it(mlp):
    groups = [{**GROUP, "params": ["0.weight", "2.*"]}, {**GROUP, "params": ["0.*"]}]
    optimizer = DirectionalDampedNewton(mlp[0].named_parameters(), groups)
    assert [group["param_names"] for group in optimizer.param_groups] == [
        ["0.weight", "2.weight", "2.bias"],
        ["0.bias"],
    ]


def test_rest_in_a_group_is_include_complement(mlp):
    optimizer = DirectionalDampedNewton(mlp[0].named_parameters(), [{**GROUP, "rest": True}])
    assert optimizer.param_groups[0]["include_complement"] is True
    assert "rest" not in optimizer.param_groups[0]
    both = {**GROUP, "rest": True, "include_complement": True}
    with pytest.raises(ArgumentError, match="group 0 has both 'include_complement' and its former name 'rest'"):
        DirectionalDampedNewton(mlp[0].named_parameters(), [both])


def test_lr_of_groups(mlp):
    tables = [{**GROUP, "params": ["0.*"]}, {**GROUP, "lr": 0.25}]
    optimizer = DirectionalDampedNewton(mlp[0].named_parameters(), tables, lr=0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.25]
    config = parse_config({"groups": tables})
    for same in (config, parse_config(resolved_config(config))):
        optimizer = DirectionalDampedNewton(mlp[0].named_parameters(), same)
        assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.25]
    with pytest.raises(ArgumentError, match=r"lr = 0.5 is given in addition to a config"):
        DirectionalDampedNewton(mlp[0].named_parameters(), config, lr=0.5)


def test_gradients_stay_and_zero_grad_clears_them(problem):
    model, loss_function, inputs, targets = problem
    plain = copy.deepcopy(model)
    optimizer = DirectionalDampedNewton(model.named_parameters())
    with optimizer.curvature():
        loss_function(model(inputs), targets).backward()
    loss_function(plain(inputs), targets).backward()
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_scheduler_changes_the_step(problem):
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), damping=1.0, lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for expected in (1.0, 0.5, 0.25):
        assert optimizer.param_groups[0]["lr"] == expected
        before = parameters_to_vector(problem[0].parameters()).detach().clone()
        train_step(optimizer, problem)
        moved = float((parameters_to_vector(problem[0].parameters()).detach() - before).norm())
        assert moved == pytest.approx(expected * float(optimizer.last_step[0].step_norm), rel=1e-6)
        scheduler.step()


def test_step_without_a_curvature_pass(problem):
    model, loss_function, inputs, targets = problem
    optimizer = DirectionalDampedNewton(model.named_parameters())
    with pytest.raises(CurvatureError, match="needs a curvature pass since the last step"):
        optimizer.step()
    loss_function(model(inputs), targets).backward()  # a backward pass outside of curvature()
    with pytest.raises(CurvatureError, match="needs a curvature pass"):
        optimizer.step()
    train_step(optimizer, problem)
    with pytest.raises(CurvatureError, match="needs a curvature pass"):
        optimizer.step()  # the one before has used it up
    with optimizer.curvature():
        pass
    with pytest.raises(CurvatureError, match="needs a curvature pass"):
        optimizer.step()


def test_a_second_pass_replaces_the_first(problem):
    model, loss_function, inputs, targets = problem
    twin = copy.deepcopy(model)
    optimizer = DirectionalDampedNewton(model.named_parameters())
    with optimizer.curvature():
        loss_function(model(inputs + 1), targets).backward()
    train_step(optimizer, problem)
    train_step(DirectionalDampedNewton(twin.named_parameters()), (twin, *problem[1:]))
    assert torch.equal(parameters_to_vector(model.parameters()), parameters_to_vector(twin.parameters()))


def test_frozen_and_unreached_parameters(problem):
    model = problem[0]
    model[0].weight.requires_grad_(False)
    unused = nn.Linear(2, 2).double()
    optimizer = DirectionalDampedNewton([*model.named_parameters(), ("unused.weight", unused.weight)])
    frozen, kept = model[0].weight.clone(), unused.weight.detach().clone()
    train_step(optimizer, problem)
    assert torch.equal(model[0].weight, frozen)
    assert torch.equal(unused.weight, kept)


def test_parameters_without_names():
    model = nn.Sequential(nn.Linear(3, 2))
    optimizer = DirectionalDampedNewton(model.parameters())
    train_step(optimizer, (model, nn.MSELoss(), torch.rand(4, 3), torch.rand(4, 2)))
    assert len(optimizer.last_step) == 1


def test_curvature_settings(problem):
    model = problem[0]
    optimizer = DirectionalDampedNewton(
        model.named_parameters(), curvature={"kind": "ggn-mc", "mc_samples": 2, "seed": 0, "subsampling_ggn": [0, 1, 2]}
    )
    train_step(optimizer, problem)
    assert optimizer.last_step[0].all_evals.shape == (6,)
    with pytest.raises(ConfigError, match="mc_samples is set, but kind 'ggn' draws no Monte-Carlo samples"):
        DirectionalDampedNewton(model.named_parameters(), damping=1.0, curvature={"mc_samples": 2})
    with pytest.raises(ConfigError, match=r"curvature: knid: unknown field\. Did you mean 'kind'"):
        DirectionalDampedNewton(model.named_parameters(), curvature={"knid": "ggn"})


def test_seeded_monte_carlo_steps_are_repeatable(mlp):
    ends = []
    for _ in range(2):
        model = copy.deepcopy(mlp[0])
        optimizer = DirectionalDampedNewton(model.named_parameters(), curvature={"kind": "ggn-mc", "seed": 3})
        for _ in range(3):
            train_step(optimizer, (model, mlp[1], *mlp[2:]))
        ends.append(parameters_to_vector(model.parameters()).detach())
    assert torch.equal(*ends)


class Adapting(Damping):
    """Doubles after each step; needs the loss after it."""

    requires: ClassVar[frozenset[str]] = frozenset({"loss_after"})
    seen: ClassVar[list[Outcome]] = []
    _value: float = PrivateAttr(1.0)

    def damp(self, directions):
        return torch.full_like(directions.evals, self._value)

    def observe(self, outcome):
        self._value *= 2
        self.seen.append(outcome)


def test_adaptive_strategies_observe_each_step(problem):
    model, loss_function, inputs, targets = problem
    optimizer = DirectionalDampedNewton(model.named_parameters(), [{**GROUP, "damping": Adapting()}])
    evaluations = []

    def closure():
        evaluations.append(1)
        return loss_function(model(inputs), targets)

    loss = train_step(optimizer, problem, closure)
    outcome = Adapting.seen[-1]
    assert len(evaluations) == 1
    assert outcome.loss_before == pytest.approx(loss)
    with torch.no_grad():
        assert outcome.loss_after == pytest.approx(float(loss_function(model(inputs), targets)))
    assert outcome.predicted_decrease == pytest.approx(float(optimizer.last_step[0].predicted_decrease))
    assert 0.3 < (outcome.loss_before - outcome.loss_after) / outcome.predicted_decrease < 3
    assert outcome.step == 0
    assert outcome.lr == 1.0
    assert outcome.directions == len(optimizer.last_step[0].evals)
    assert outcome.step_norm == pytest.approx(float(optimizer.last_step[0].step_norm))
    train_step(optimizer, problem, closure)
    assert optimizer.last_step[0].deltas[0] == 2.0
    assert Adapting.seen[-1].step == 1


def test_nobody_asks_for_the_loss_so_nobody_pays(problem):
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), damping=1.0)
    calls = []
    train_step(optimizer, problem, lambda: calls.append("the loss was evaluated"))
    assert calls == []
    assert float(optimizer.last_step[0].step_norm) > 0


def test_closure_is_demanded_before_anything_moves(problem):
    model = problem[0]
    optimizer = DirectionalDampedNewton(model.named_parameters(), [{**GROUP, "damping": Adapting()}])
    before = parameters_to_vector(model.parameters()).detach().clone()
    with pytest.raises(
        ArgumentError, match=r"damping 'Adapting' .* requires the loss after the step. Call step\(closure\)"
    ):
        train_step(optimizer, problem)
    assert torch.equal(parameters_to_vector(model.parameters()), before)


def test_a_nested_requirement_counts(problem):
    damping = {"kind": "maximum", "of": [{"kind": "constant"}, Adapting()]}
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), [{**GROUP, "damping": damping}])
    with pytest.raises(ArgumentError, match="requires the loss after the step"):
        train_step(optimizer, problem)
    train_step(optimizer, problem, lambda: problem[1](problem[0](problem[2]), problem[3]))
    assert optimizer.param_groups[0]["damping"].of[1]._value == 2.0


def test_all_groups_move_or_none(problem):
    model = problem[0]
    groups = [{**GROUP, "params": ["0.*"]}, {**GROUP, "damping": lambda evals, *_: evals.new_full((1,), float("nan"))}]
    optimizer = DirectionalDampedNewton(model.named_parameters(), groups)
    before = parameters_to_vector(model.parameters()).detach().clone()
    with pytest.raises(StrategyError, match="group 1: damping"):
        train_step(optimizer, problem)
    assert torch.equal(parameters_to_vector(model.parameters()), before)


def test_a_step_that_overflows_is_not_taken():
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    optimizer = DirectionalDampedNewton(
        model.named_parameters(), [{**GROUP, "damping": {"kind": "constant", "value": 0.0}}]
    )
    before = model[0].weight.detach().clone()
    data = (torch.full((1, 1), 1e-18), torch.full((1, 1), 1e19))  # step = y / x, beyond float32
    with pytest.raises(CurvatureError, match="NaN or infinite"):
        train_step(optimizer, (model, nn.MSELoss(), *data))
    assert torch.equal(model[0].weight, before)


def _saved(optimizer):
    """Through a file, without unpickling code."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_state_round_trip_continues_exactly(mlp):
    """With adaptive, nested, seeded parts: saved after two steps and continued, the end is the same."""
    groups = [
        {
            **GROUP,
            "params": ["0.*"],
            "damping": {"kind": "sum", "of": [Adapting(), {"kind": "constant", "value": 0.1}]},
        },
        GROUP,
    ]
    settings = {"curvature": {"kind": "ggn-mc", "seed": 1}, "lr": 0.5}

    def start(model):
        return DirectionalDampedNewton(model.named_parameters(), groups, **settings)

    def steps(optimizer, model, count):
        loss_function = mlp[1]
        for _ in range(count):
            train_step(optimizer, (model, loss_function, *mlp[2:]), lambda: loss_function(model(mlp[2]), mlp[3]))

    whole, part = copy.deepcopy(mlp[0]), copy.deepcopy(mlp[0])
    steps(start(whole), whole, 4)
    first = start(part)
    steps(first, part, 2)
    second = start(part)
    second.load_state_dict(_saved(first))
    assert second.param_groups[0]["damping"].of[0]._value == 4.0
    steps(second, part, 2)
    assert Adapting.seen[-1].step == 3
    assert torch.equal(parameters_to_vector(whole.parameters()), parameters_to_vector(part.parameters()))


def test_lr_comes_back_with_the_state(mlp):
    first = DirectionalDampedNewton(mlp[0].named_parameters(), lr=0.3)
    second = DirectionalDampedNewton(mlp[0].named_parameters(), lr=1.0)
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["lr"] == 0.3
    assert isinstance(second.param_groups[0]["damping"], Damping)


def test_foreign_state_is_refused_and_nothing_changed(mlp):
    first = DirectionalDampedNewton(mlp[0].named_parameters(), lr=0.3)
    other = DirectionalDampedNewton(mlp[0].named_parameters(), [{**GROUP, "criterion": {"kind": "top-k"}}])
    with pytest.raises(StrategyError, match="group 0 was saved with criterion"):
        other.load_state_dict(first.state_dict())
    assert other.param_groups[0]["lr"] == 1.0
    two = DirectionalDampedNewton(mlp[0].named_parameters(), [{**GROUP, "params": ["0.*"]}, GROUP])
    with pytest.raises(ArgumentError, match="groups of"):
        two.load_state_dict(first.state_dict())


def test_a_state_that_fits_only_the_first_group_changes_no_strategy(mlp):
    def start(criterion):
        groups = [{**GROUP, "params": ["0.*"], "damping": Adapting()}, {**GROUP, "criterion": criterion}]
        return DirectionalDampedNewton(mlp[0].named_parameters(), groups)

    first, second = start({"kind": "all"}), start({"kind": "top-k"})
    first.param_groups[0]["damping"]._value = 4.0
    before = second.param_groups[0]["damping"]._value
    with pytest.raises(StrategyError, match="group 1 was saved with criterion"):
        second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["damping"]._value == before != 4.0


def test_state_of_an_optimizer_of_torch_is_refused(mlp):
    optimizer = DirectionalDampedNewton(mlp[0].named_parameters())
    with pytest.raises(DdnError, match="not saved by"):
        optimizer.load_state_dict(torch.optim.SGD(mlp[0].parameters(), lr=0.1).state_dict())


def test_add_param_group(problem):
    model = problem[0]
    optimizer = DirectionalDampedNewton(model[0].named_parameters(), [GROUP])
    optimizer.add_param_group({**GROUP, "params": list(model[2].named_parameters()), "lr": 0.5})
    train_step(optimizer, problem)
    assert len(optimizer.last_step) == 2
    with pytest.raises(ArgumentError, match="more than one parameter group"):
        optimizer.add_param_group({**GROUP, "params": list(model[2].named_parameters())})
    with pytest.raises(ArgumentError, match="group 2 has no 'damping'"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "criterion": {"kind": "all"}})
    assert len(optimizer.param_groups) == 2


def _bad(model):
    weight = model[0].weight
    return {
        "no parameters": (lambda: DirectionalDampedNewton([]), "there are no parameters"),
        "tables in place of parameters": (
            lambda: DirectionalDampedNewton([{"params": [weight]}]),
            "is not a parameter. Pass model.named",
        ),
        "no groups": (lambda: DirectionalDampedNewton(model.named_parameters(), []), "no parameter groups"),
        "idle glob": (
            lambda: DirectionalDampedNewton(model.named_parameters(), [{**GROUP, "params": ["*", "7.*"]}]),
            r"groups.0.params.1: '7.\*' matches no parameter",
        ),
        "left over": (
            lambda: DirectionalDampedNewton(model.named_parameters(), [{**GROUP, "params": ["0.*"]}]),
            "no group matches 2.weight, 2.bias",
        ),
        "nothing left": (
            lambda: DirectionalDampedNewton(model.named_parameters(), [GROUP, {**GROUP, "params": ["0.*"]}]),
            "groups.1.params: all parameters that these globs match belong to earlier groups",
        ),
        "empty params": (
            lambda: DirectionalDampedNewton(model.named_parameters(), [{**GROUP, "params": []}]),
            "group 0 has no params",
        ),
        "foreign tensor": (
            lambda: DirectionalDampedNewton(
                model.named_parameters(), [{**GROUP, "params": [nn.Parameter(torch.ones(2))]}]
            ),
            r"a parameter of shape \[2\] that is not among",
        ),
        "in two groups": (
            lambda: DirectionalDampedNewton(
                model.named_parameters(), [{**GROUP, "params": [weight]}, {**GROUP, "params": ["*", weight]}]
            ),
            "0.weight is in group 0 and in group 1",
        ),
        "lr of text": (lambda: DirectionalDampedNewton(model.named_parameters(), lr="1"), "lr = '1'"),
        "no lr": (lambda: DirectionalDampedNewton(model.named_parameters(), lr=None), "lr = None"),
        "groups of text": (lambda: DirectionalDampedNewton(model.named_parameters(), "*"), "groups is a str"),
        "groups as a table": (lambda: DirectionalDampedNewton(model.named_parameters(), GROUP), "groups is a dict"),
        "a glob as a group": (lambda: DirectionalDampedNewton(model.named_parameters(), ["*"]), "group 0 is a str"),
        "a number of parameters": (lambda: DirectionalDampedNewton(5), "params is a int"),
        "one tensor": (lambda: DirectionalDampedNewton(weight), "params is a Parameter"),
        "one name twice": (
            lambda: DirectionalDampedNewton([("a", weight), ("a", model[0].bias)]),
            "two parameters are named 'a'",
        ),
        "unknown key": (
            lambda: DirectionalDampedNewton(model.named_parameters(), [{**GROUP, "larning_rate": 1}]),
            "unknown key 'larning_rate'",
        ),
        "negative lr": (lambda: DirectionalDampedNewton(model.named_parameters(), lr=-1.0), "lr = -1.0"),
        "NaN lr": (lambda: DirectionalDampedNewton(model.named_parameters(), lr=float("nan")), "lr = nan"),
    }


@pytest.mark.parametrize("name", _bad(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))))
def test_bad_arguments(mlp, name):
    make, message = _bad(mlp[0])[name]
    with pytest.raises(ArgumentError, match=message):
        make()


def test_no_warnings_in_normal_use(problem):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = DirectionalDampedNewton(problem[0].named_parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        train_step(optimizer, problem)
        scheduler.step()
        assert "DirectionalDampedNewton" in repr(optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_last_step_is_what_happened(problem):
    optimizer = DirectionalDampedNewton(
        problem[0].named_parameters(), [{**GROUP, "criterion": {"kind": "top-k", "k": 3}}], lr=0.5
    )
    assert optimizer.last_step == ()
    train_step(optimizer, problem)
    (report,) = optimizer.last_step
    assert report.evals.shape == report.deltas.shape == report.coefficients.shape == (3,)
    assert report.all_evals.shape == (24,)
    assert report.lr == 0.5
    assert float(report.step_norm) == pytest.approx(float(report.coefficients.norm()))
    assert float(report.predicted_decrease) > 0


def test_an_error_in_observe_names_the_group(problem):
    class Forgetful(Damping):
        """Fails to observe."""

        def damp(self, directions):
            return torch.ones_like(directions.evals)

        def observe(self, outcome):
            raise KeyError("lost")

    groups = [{**GROUP, "params": ["0.*"]}, {**GROUP, "damping": Forgetful()}]
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), groups)
    with pytest.raises(
        StrategyError, match=r"group 1, after the step: damping 'Forgetful' .*: `observe` raised KeyError: 'lost'"
    ):
        train_step(optimizer, problem)


def test_labels_name_the_distribution_of_an_editable_installation(mlp):
    optimizer = DirectionalDampedNewton(mlp[0].named_parameters(), [GROUP])
    assert optimizer.param_groups[0]["damping"].label().startswith("damping 'constant' (ddn-core ")


def test_lr_times_a_step_that_overflows_moves_nothing(problem):
    model = problem[0].float()
    groups = [{**GROUP, "params": ["0.*"]}, GROUP]
    optimizer = DirectionalDampedNewton(model.named_parameters(), groups)
    before = parameters_to_vector(model.parameters()).detach().clone()
    for lr in (1e300, 1e39):
        optimizer.param_groups[1]["lr"] = lr
        with pytest.raises(CurvatureError, match=r"group 1: .*No parameter has been touched"):
            train_step(optimizer, (model, problem[1], 1e3 * problem[2].float(), problem[3]))
        assert torch.equal(parameters_to_vector(model.parameters()), before)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_of_the_optimizer_go_on(mlp, way):
    """A copy of model and optimizer together trains on, as the original does."""
    model, loss_function = mlp[0], mlp[1]
    optimizer = DirectionalDampedNewton(
        model.named_parameters(), [{**GROUP, "damping": Adapting()}], curvature={"kind": "ggn-mc", "seed": 0}
    )
    closure = lambda model: lambda: loss_function(model(mlp[2]), mlp[3])  # noqa: E731
    train_step(optimizer, (model, loss_function, *mlp[2:]), closure(model))
    twins = copy.deepcopy((model, optimizer)) if way == "deepcopy" else pickle.loads(pickle.dumps((model, optimizer)))
    for own_model, own_optimizer in ((model, optimizer), twins):
        train_step(own_optimizer, (own_model, loss_function, *mlp[2:]), closure(own_model))
    assert torch.equal(parameters_to_vector(model.parameters()), parameters_to_vector(twins[0].parameters()))
    assert twins[1].param_groups[0]["damping"]._value == 4.0


def test_two_passes_in_one_block_are_refused(problem):
    model, loss_function, inputs, targets = problem
    optimizer = DirectionalDampedNewton(model.named_parameters())
    with optimizer.curvature():
        loss_function(model(inputs), targets).backward()
        before = [parameter.grad.clone() for parameter in model.parameters()]
        with pytest.raises(CurvatureError, match="a second backward pass in one"):
            loss_function(model(inputs), targets).backward()
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_a_closure_may_call_backward(problem):
    """As torch's own closures do; the gradient is then that after the step."""
    model, loss_function, inputs, targets = problem
    optimizer = DirectionalDampedNewton(model.named_parameters(), [{**GROUP, "damping": Adapting()}])

    def closure():
        optimizer.zero_grad()
        loss = loss_function(model(inputs), targets)
        loss.backward()
        return loss

    train_step(optimizer, problem, closure)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.pop("ddn"),
        lambda s: s["ddn"].clear(),
        lambda s: s["param_groups"][0].pop("damping"),
        lambda s: s["param_groups"][0]["damping"].pop("state"),
        lambda s: s["ddn"]["generators"].update({"nowhere": torch.zeros(3, dtype=torch.uint8)}),
        lambda s: s["param_groups"][0]["damping"].update(state={"own": {"_x": 1}}),
    ],
)
def test_damaged_states_are_refused_and_nothing_changed(mlp, damage):
    first = DirectionalDampedNewton(mlp[0].named_parameters(), lr=0.3)
    state = copy.deepcopy(first.state_dict())
    damage(state)
    second = DirectionalDampedNewton(mlp[0].named_parameters())
    with pytest.raises(DdnError):
        second.load_state_dict(state)
    assert second.param_groups[0]["lr"] == 1.0
    assert isinstance(second.param_groups[0]["damping"], Damping)


def test_strategies_in_tables_and_lists_are_found(problem):
    class Several(Damping):
        """Takes dampings at any depth."""

        named: dict[str, AnyDamping]
        rows: list[list[AnyDamping]]

        def damp(self, directions):
            return self.named["a"](directions) + self.rows[0][0](directions)

    damping = Several(named={"a": Adapting()}, rows=[[Adapting()]])
    optimizer = DirectionalDampedNewton(problem[0].named_parameters(), [{**GROUP, "damping": damping}])
    with pytest.raises(ArgumentError, match="requires the loss after the step"):
        train_step(optimizer, problem)
    train_step(optimizer, problem, lambda: problem[1](problem[0](problem[2]), problem[3]))
    state = optimizer.state_dict()["param_groups"][0]["damping"]["state"]
    assert [state["inner"][path]["own"]["_value"] for path in ("named.a", "rows.0.0")] == [2.0, 2.0]


def test_functions_are_used_as_they_are(problem):
    """Not copied: they may hold what cannot be copied, and their author may want to look at them."""

    class Recording:
        def __init__(self):
            self.lock, self.calls = threading.Lock(), 0

        def __call__(self, evals, evecs, gammas, lambdas):
            self.calls += 1
            gammas.zero_()  # its own affair
            evals.mul_(2)
            return torch.ones_like(evals)

    recording = Recording()
    twin = copy.deepcopy(problem[0])
    train_step(DirectionalDampedNewton(problem[0].named_parameters(), [{**GROUP, "damping": recording}]), problem)
    assert recording.calls == 1
    train_step(DirectionalDampedNewton(twin.named_parameters(), damping=1.0), (twin, *problem[1:]))
    torch.testing.assert_close(parameters_to_vector(problem[0].parameters()), parameters_to_vector(twin.parameters()))


@pytest.mark.parametrize("form", [list, iter, lambda params: next(iter(params))], ids=["list", "iterator", "tensor"])
def test_a_group_of_unnamed_parameters_is_added_to_others(form):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False))
    optimizer = DirectionalDampedNewton(model[0].parameters(), damping=0.1)
    optimizer.add_param_group({"params": form(model[1].parameters()), "criterion": "all", "damping": 0.1})
    assert [group["param_names"] for group in optimizer.param_groups] == [["0", "1"], ["2"]]
    before = model[1].weight.detach().clone()
    optimizer.backward(nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(0, 2, (8,))))
    optimizer.step()
    assert not torch.equal(model[1].weight, before)
