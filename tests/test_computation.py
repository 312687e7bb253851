"""`DirectionalDampedNewtonComputation`: ViViT's flow, any number of passes, nothing left behind."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from dataclasses import replace

import pytest
import torch
from backpack import backpack, extend
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import DirectionalDampedNewtonComputation
from ddn_core.api import Criterion, Damping
from ddn_core.errors import ArgumentError, ConfigError, DdnError, NoResultError, StrategyError
from ddn_core.testing import dense_ggn

ALL, ONE = {"kind": "all"}, {"kind": "constant", "value": 1.0}


def _group(parameters, criterion=ALL, damping=ONE):
    return {"params": list(parameters), "criterion": criterion, "damping": damping}


def _pass(computation, groups, model, loss_function, inputs, targets):
    loss = loss_function(model(inputs), targets)
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook(groups)):
        loss.backward()


def _extended(mlp):
    model, loss_function, inputs, targets = mlp
    return extend(model), extend(loss_function), inputs, targets


class Keep(Criterion):
    """Keep the last two."""

    def select(self, directions):
        return [len(directions) - 2, len(directions) - 1]


class Halve(Damping):
    """Half of each eigenvalue."""

    def damp(self, directions):
        return directions.evals / 2


@pytest.mark.parametrize("k", [1, 4])
def test_callable_object_and_table_give_the_same(mlp, k):
    mlp = _extended(mlp)

    class Top(Criterion):
        """Keep the last k."""

        def select(self, directions):
            return list(range(len(directions) - k, len(directions)))

    steps = []
    for criterion in (lambda evals: [len(evals) - k + i for i in range(k)], Top(), {"kind": "top-k", "k": k}):
        computation = DirectionalDampedNewtonComputation()
        group = _group(
            mlp[0].parameters(), criterion, lambda evals, evecs, gammas, lambdas: 0.5 * torch.ones_like(evals)
        )
        _pass(computation, [group], *mlp)
        steps.append(parameters_to_vector(computation.get_result(group)))
    assert torch.equal(steps[0], steps[1])
    torch.testing.assert_close(steps[0], steps[2])


def test_damping_function_gets_the_seed_s_quantities(mlp):
    mlp = _extended(mlp)
    seen = {}

    def damping(evals, evecs, gammas, lambdas):
        seen.update(evals=evals, evecs=evecs, gammas=gammas, lambdas=lambdas)
        return torch.ones_like(evals)

    group = _group(mlp[0].parameters(), Keep(), damping)
    computation = DirectionalDampedNewtonComputation(subsampling_grad=[0, 1, 2], subsampling_ggn=[3, 4])
    _pass(computation, [group], *mlp)
    directions = computation.get_directions(group)
    assert {name: tuple(value.shape) for name, value in seen.items()} == {
        "evals": (2,),
        "evecs": (6, 2),
        "gammas": (3, 2),
        "lambdas": (2, 2),
    }
    for name, value in seen.items():
        assert torch.equal(value, getattr(directions, name))
    assert directions.deltas.tolist() == [1.0, 1.0]


def test_one_object_serves_any_number_of_passes(mlp):
    """Each pass, with the hook of the first or a new one, gives the result of its own data."""
    model, loss_function, inputs, targets = _extended(mlp)
    group = _group(model.parameters())
    computation = DirectionalDampedNewtonComputation()
    extensions, hook = computation.get_extensions(), computation.get_extension_hook([group])
    reused, fresh = [], []
    for shift in range(3):
        loss = loss_function(model(inputs + shift), targets)
        with backpack(*extensions, extension_hook=hook):
            loss.backward()
        reused.append(parameters_to_vector(computation.get_result(group)))
        other = DirectionalDampedNewtonComputation()
        _pass(other, [group], model, loss_function, inputs + shift, targets)
        fresh.append(parameters_to_vector(other.get_result(group)))
    for ours, expected in zip(reused, fresh, strict=True):
        assert torch.equal(ours, expected)
    assert not torch.equal(reused[0], reused[1])


def test_a_failed_pass_leaves_no_stale_result(mlp):
    model, loss_function, inputs, targets = _extended(mlp)
    group = _group(model.parameters())
    computation = DirectionalDampedNewtonComputation()
    hook = computation.get_extension_hook([group])
    loss_function(model(inputs), targets)
    with backpack(*computation.get_extensions(), extension_hook=hook):
        loss_function(model(inputs), targets).backward()
    computation.get_result(group)
    with pytest.raises(DdnError), backpack(*computation.get_extensions(), extension_hook=hook):
        (-loss_function(model(inputs), targets)).backward()
    with pytest.raises(NoResultError):
        computation.get_result(group)


def test_nothing_is_left_on_model_or_parameters(mlp):
    model, loss_function, inputs, targets = _extended(mlp)
    before = {id(item): set(vars(item)) for item in (*model.modules(), *model.parameters(), loss_function)}
    hooks = [(len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    computation = DirectionalDampedNewtonComputation()
    _pass(computation, [_group(model.parameters())], model, loss_function, inputs, targets)
    assert {id(item): set(vars(item)) for item in (*model.modules(), *model.parameters(), loss_function)} == before
    assert [(len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()] == hooks
    for parameter in model.parameters():
        assert vars(parameter) == {}
        assert parameter._backward_hooks is None


def test_results_are_freed_with_the_next_pass(mlp):
    mlp = _extended(mlp)
    computation = DirectionalDampedNewtonComputation()
    group = _group(mlp[0].parameters())
    _pass(computation, [group], *mlp)
    evecs = weakref.ref(computation.get_directions(group).evecs)
    _pass(computation, [group], *mlp)
    gc.collect()
    assert evecs() is None


def test_gradient_is_that_of_an_ordinary_backward_pass(mlp):
    model, loss_function, inputs, targets = mlp
    plain = copy.deepcopy(model)
    loss_function(plain(inputs), targets).backward()
    _pass(
        DirectionalDampedNewtonComputation(),
        [_group(model.parameters())],
        extend(model),
        extend(loss_function),
        inputs,
        targets,
    )
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, expected.grad)


def test_frozen_and_unreached_parameters_are_left_out(mlp):
    """Frozen: requires no gradient. Unreached: the loss does not depend on it. Both get a zero step."""
    model, loss_function, inputs, targets = mlp
    model[0].bias.requires_grad_(False)
    unused = nn.Linear(2, 2)
    group = _group([*model.parameters(), *unused.parameters()])
    computation = DirectionalDampedNewtonComputation()
    _pass(computation, [group], extend(model), extend(loss_function), inputs, targets)
    step = computation.get_result(group)
    zero = [index for index, part in enumerate(step) if not part.any()]
    assert zero == [1, 4, 5]
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    expected = torch.linalg.eigvalsh(dense_ggn(model, loss_function, inputs, targets, names))
    directions = computation.get_directions(group)
    torch.testing.assert_close(directions.evals[-5:], expected[-5:], rtol=1e-4, atol=1e-6)


def test_a_group_that_the_loss_does_not_reach_gets_a_zero_step(mlp):
    model, loss_function, inputs, targets = _extended(mlp)
    unused = nn.Linear(2, 2)
    groups = [_group(model.parameters()), _group(unused.parameters())]
    computation = DirectionalDampedNewtonComputation()
    _pass(computation, groups, model, loss_function, inputs, targets)
    assert all(not part.any() for part in computation.get_result(groups[1]))
    assert parameters_to_vector(computation.get_result(groups[0])).any()


def test_groups_do_not_share_a_strategy_s_state(mlp):
    model, loss_function, inputs, targets = _extended(mlp)

    class Counting(Damping):
        """Counts its calls."""

        _calls: int = 0

        def damp(self, directions):
            self._calls += 1
            return torch.full_like(directions.evals, float(self._calls))

    damping = Counting()
    groups = [_group(layer.parameters(), damping=damping) for layer in (model[0], model[2])]
    computation = DirectionalDampedNewtonComputation()
    _pass(computation, groups, model, loss_function, inputs, targets)
    assert [float(computation.get_directions(group).deltas[0]) for group in groups] == [1.0, 1.0]
    assert damping._calls == 0


def test_eigenvectors_in_parameter_space(mlp):
    model, loss_function, inputs, targets = (
        item.double() if hasattr(item, "double") and not isinstance(item, torch.Tensor) else item for item in mlp
    )
    inputs = inputs.double()
    group = _group(model.parameters(), {"kind": "top-k", "k": 3})
    computation = DirectionalDampedNewtonComputation()
    _pass(computation, [group], extend(model), extend(loss_function), inputs, targets)
    directions = computation.get_directions(group)
    vectors = directions.eigenvectors()
    assert [v.shape for v in vectors] == [(3, *p.shape) for p in model.parameters()]
    flat = torch.cat([v.flatten(1) for v in vectors], 1)
    ggn = dense_ggn(model, loss_function, inputs, targets)
    torch.testing.assert_close(ggn @ flat.T, flat.T * directions.evals)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(flat @ gradient, directions.loss_gammas)


def test_verbose_tells(mlp, capsys):
    mlp = _extended(mlp)
    _pass(DirectionalDampedNewtonComputation(verbose=True), [_group(mlp[0].parameters())], *mlp)
    printed = capsys.readouterr().out
    assert "group 0" in printed
    assert "directions kept" in printed
    _pass(DirectionalDampedNewtonComputation(), [_group(mlp[0].parameters())], *mlp)
    assert capsys.readouterr().out == ""


def test_no_warning_and_no_lasting_filter(mlp):
    mlp = _extended(mlp)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        _pass(DirectionalDampedNewtonComputation(), [_group(mlp[0].parameters())], *mlp)
        assert warnings.filters == filters


# what cannot work is told, and nothing has been changed


@pytest.mark.parametrize("indices", [[0, 0], [1, 2, 1], [-1], [0.5], [True], [], "01", 5], ids=str)
@pytest.mark.parametrize("name", ["subsampling_grad", "subsampling_ggn"])
def test_bad_subsampling(name, indices):
    with pytest.raises(ArgumentError, match=name):
        DirectionalDampedNewtonComputation(**{name: indices})


@pytest.mark.parametrize("samples", [-1, 1.5, "1", True, None])
def test_bad_number_of_mc_samples(samples):
    with pytest.raises(ArgumentError, match="Monte-Carlo"):
        DirectionalDampedNewtonComputation(mc_samples_ggn=samples)


def _bad_groups(model):
    weight, bias = model[0].weight, model[0].bias
    return {
        "no groups": ([], "no parameter groups"),
        "no params": ([{"criterion": ALL, "damping": ONE}], "no 'params'"),
        "no criterion": ([{"params": [weight], "damping": ONE}], "no 'criterion'"),
        "no damping": ([{"params": [weight], "criterion": ALL}], "no 'damping'"),
        "empty params": ([_group([])], "empty list of parameters"),
        "one tensor": ([_group([weight]) | {"params": weight}], "has params of type Parameter"),
        "no leaf": ([_group([2 * weight])], "among its params"),
        "a table of groups": ({"params": [weight]}, "the parameter groups are a dict"),
        "nothing": (None, "the parameter groups are a NoneType"),
        "a list as group": ([[weight]], "group 0 is a list"),
        "a name": ([_group(["0.weight"])], "'0.weight' among its params"),
        "in two groups": ([_group([weight]), _group([bias, weight])], r"\[6, 5\] is in group 0 and in group 1"),
        "twice": ([_group([weight, weight])], "in group 0 and in group 0"),
    }


@pytest.mark.parametrize("name", _bad_groups(nn.Sequential(nn.Linear(5, 6))))
def test_bad_groups(mlp, name):
    groups, message = _bad_groups(mlp[0])[name]
    with pytest.raises(ArgumentError, match=message):
        DirectionalDampedNewtonComputation().get_extension_hook(groups)


@pytest.mark.parametrize(
    ("criterion", "damping", "message"),
    [
        ({"kind": "top-k", "k": 0}, ONE, "group 0, criterion: k: input should be greater than 0"),
        ({"kind": "topk"}, ONE, "no criterion named 'topk'. Did you mean 'top-k'?"),
        (ALL, {"kind": "constnat"}, "group 0, damping: kind: no damping named 'constnat'. Did you mean 'constant'?"),
        (ALL, {"kind": "constant", "valeu": 1}, "valeu: unknown field. Did you mean 'value'?"),
        (ALL, {"value": 1}, "the kind is missing"),
        (ALL, {"kind": "top-k"}, "no damping named 'top-k'. It is a criterion"),
        (ALL, -1.0, "group 0, damping: value: input should be greater than"),
        (ALL, True, "group 0, damping: expected a table"),
        (ALL, Damping, "expected a table"),
        ("topk", ONE, "group 0, criterion: kind: no criterion named 'topk'"),
        (1.0, ONE, "group 0, criterion: expected a table"),
    ],
)
def test_bad_strategies(mlp, criterion, damping, message):
    with pytest.raises(ConfigError) as error:
        DirectionalDampedNewtonComputation().get_extension_hook([_group(mlp[0].parameters(), criterion, damping)])
    assert message in str(error.value)


class Broken(Damping):
    """Raises."""

    def damp(self, directions):
        raise ZeroDivisionError("oh")


def _returns(value):
    class Returns(Damping):
        """Returns something."""

        def damp(self, directions):
            return value(directions) if callable(value) else value

    return Returns()


BAD_DAMPINGS = {
    "raises": (Broken(), r"group 0: damping 'Broken' \(.*\): `damp` raised ZeroDivisionError: oh"),
    "function raises": (
        lambda *_: 1 / 0,
        r"group 0: damping '.*lambda.*' \(a function of module .*\): `damp` raised ZeroDivisionError",
    ),
    "no tensor": (_returns(1.0), "returned a float; expected a tensor"),
    "nothing": (lambda *_: None, "returned a NoneType; expected a tensor"),
    "scalar": (_returns(torch.tensor(1.0)), r"of shape \[\]; expected"),
    "too long": (_returns(lambda d: torch.ones(len(d) + 1)), "one for each direction"),
    "dtype": (_returns(lambda d: torch.ones(len(d), dtype=torch.float64)), "torch.float64"),
    "NaN": (_returns(lambda d: torch.full_like(d.evals, float("nan"))), "NaN for direction 0"),
    "too negative": (_returns(lambda d: -2 * d.evals), "must be positive"),
    "exactly negative": (_returns(lambda d: -d.evals), "must be positive"),
    "minus infinity": (_returns(lambda d: torch.full_like(d.evals, -float("inf"))), "must be positive"),
}


@pytest.mark.parametrize("name", BAD_DAMPINGS)
def test_damping_that_breaks_its_contract(mlp, name):
    damping, message = BAD_DAMPINGS[name]
    mlp = _extended(mlp)
    before = parameters_to_vector(mlp[0].parameters()).clone()
    computation = DirectionalDampedNewtonComputation()
    with pytest.raises(StrategyError, match=message):
        _pass(computation, [_group(mlp[0].parameters(), damping=damping)], *mlp)
    assert torch.equal(parameters_to_vector(mlp[0].parameters()), before)


def _selects(value):
    class Selects(Criterion):
        """Selects something."""

        def select(self, directions):
            return value

    return Selects()


BAD_CRITERIA = {
    "raises": (lambda evals: evals.nonsense, "`select` raised AttributeError"),
    "no indices": (_selects("top"), "not a list of indices"),
    "None": (_selects(None), "not a list of indices"),
    "floats": (_selects([0.0, 1.0]), "expected integers"),
    "mask": (_selects([True, False]), "expected integers"),
    "twice": (_selects([1, 1]), "more than once"),
    "negative": (_selects([-1]), "index -1; there are"),
    "too large": (_selects([10**6]), "index 1000000; there are"),
    "two axes": (_selects([[0], [1]]), r"shape \[2, 1\]"),
    "function, too large": (lambda evals: [len(evals)], "index 24; there are 24"),
}


@pytest.mark.parametrize("name", BAD_CRITERIA)
def test_criterion_that_breaks_its_contract(mlp, name):
    criterion, message = BAD_CRITERIA[name]
    mlp = _extended(mlp)
    with pytest.raises(StrategyError, match=message) as error:
        _pass(DirectionalDampedNewtonComputation(), [_group(mlp[0].parameters(), criterion=criterion)], *mlp)
    assert str(error.value).startswith("group 0: criterion ")


def test_results_of_unknown_groups(mlp):
    mlp = _extended(mlp)
    group = _group(mlp[0].parameters())
    computation = DirectionalDampedNewtonComputation()
    with pytest.raises(NoResultError, match="no result for this group"):
        computation.get_result(group)
    _pass(computation, [group], *mlp)
    with pytest.raises(KeyError, match="no result"):
        computation.get_directions(dict(group))


def test_replaced_directions_forget_derivatives_and_damped_ones_keep_dampings_of_the_chosen(mlp):
    model, *rest = _extended(mlp)
    group = _group(model.parameters(), lambda evals: list(range(len(evals) - 5, len(evals))), lambda *args: 2 * args[0])
    computation = DirectionalDampedNewtonComputation()
    _pass(computation, [group], model, *rest)
    directions = computation.get_directions(group)
    gammas = directions.gammas
    fewer = replace(directions, evals=directions.evals[:2], evecs=directions.evecs[:, :2])
    torch.testing.assert_close(fewer.gammas, gammas[:, :2])
    assert directions.gammas is gammas
    chosen = directions.select([3, 1])
    torch.testing.assert_close(chosen.deltas, 2 * directions.evals[[3, 1]])
    torch.testing.assert_close(chosen.coefficients, directions.coefficients[[3, 1]])


def test_a_step_along_directions_can_be_pickled(mlp):
    model, *rest = _extended(mlp)
    group = _group(model.parameters(), {"kind": "top-k", "k": 2})
    computation = DirectionalDampedNewtonComputation()
    _pass(computation, [group], model, *rest)
    step = pickle.loads(pickle.dumps(computation._results[id(group)]))
    torch.testing.assert_close(step.moves, computation.get_result(group))
    torch.testing.assert_close(step.directions.deltas, computation.get_directions(group).deltas)
