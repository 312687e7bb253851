"""The optimizer and its strategies share no tensor, and a state that was saved can be read."""

from __future__ import annotations

import collections
import copy
import fractions
import io
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import PrivateAttr
from torch import nn

from ddn_core import DirectionalDampedNewton
from ddn_core.api import Criterion, Damping, Directions
from ddn_core.errors import StrategyError


class Cubic(Damping):
    """δ_k = 1 + k, in a tensor that the damping keeps."""

    _deltas: torch.Tensor | None = PrivateAttr(None)

    def damp(self, directions):
        if self._deltas is None or len(self._deltas) != len(directions):
            self._deltas = 1 + torch.arange(len(directions), dtype=directions.evals.dtype)
        return self._deltas


class Changing(Cubic):
    """The same in the first step; later the tensor changes."""

    def observe(self, outcome):
        self._deltas.mul_(100)


class Last(Criterion):
    """Keeps the last directions, whose indices are in a tensor or list that the criterion keeps."""

    as_list: bool = False
    _indices: Any = PrivateAttr(None)

    def select(self, directions):
        self._indices = torch.arange(len(directions))[-3:]
        if self.as_list:
            self._indices = self._indices.tolist()
        return self._indices


class Spoiling(Damping):
    """Changes a tensor of the directions in place, when it damps or when it observes."""

    name: str
    late: bool = False
    _kept: torch.Tensor | None = PrivateAttr(None)

    def damp(self, directions):
        self._kept = getattr(directions, self.name)
        if not self.late:
            self._kept[:1] *= 2
        return torch.ones_like(directions.evals)

    def observe(self, outcome):
        if self.late:
            self._kept.mul_(2)


class SpoilingCriterion(Criterion):
    """Changes the eigenvalues in place."""

    def select(self, directions):
        directions.evals.detach().add_(1)
        return [0]


def optimizer_of(damping, criterion="all", samples=6, **settings):
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    X, y = torch.randn(samples, 4, dtype=torch.float64), torch.arange(samples) % 3
    group = {"params": ["*"], "criterion": criterion, "damping": damping, "lr": 0.5, **settings}
    return model, DirectionalDampedNewton(model.named_parameters(), [group]), (X, y)


def step(model, optimizer, batch):
    optimizer.zero_grad()
    optimizer.backward(F.cross_entropy(model(batch[0]), batch[1]))
    optimizer.step()
    return optimizer.last_step[0]


def test_a_tensor_that_a_damping_keeps_changes_neither_the_report_nor_reused_directions():
    found = {}
    for damping in (Cubic(), Changing()):
        model, optimizer, batch = optimizer_of(damping, every=4)
        reports = [step(model, optimizer, batch) for _ in range(4)]
        found[type(damping)] = [report.deltas for report in reports], [p.detach().clone() for p in model.parameters()]
    torch.testing.assert_close(found[Changing], found[Cubic], rtol=0, atol=0)


@pytest.mark.parametrize("as_list", [False, True], ids=["tensor", "list"])
def test_indices_that_a_criterion_keeps_are_its_own(as_list):
    criterion = Last(as_list=as_list)
    directions = Directions.from_tensors(torch.arange(1.0, 6), torch.eye(5), torch.ones(5, 5), torch.ones(5, 5))
    chosen = criterion(directions)
    criterion._indices[0] = 0
    assert chosen.tolist() == [2, 3, 4]


@pytest.mark.parametrize("samples", [3, 20], ids=["Gram matrix", "GGN"])
@pytest.mark.parametrize("name", ["evals", "evecs", "all_evals", "gammas", "lambdas", "loss_gammas", "loss_lambdas"])
def test_a_damping_that_changes_the_directions_is_named_and_nothing_moves(name, samples):
    model, optimizer, batch = optimizer_of(Spoiling(name=name), samples=samples)
    before = copy.deepcopy(model.state_dict())
    changed = {"all_evals": "(all_)?evals", "loss_lambdas": "(loss_lambdas|evals)"}.get(name, name)
    with pytest.raises(StrategyError, match=rf"^group 0: damping 'Spoiling' .*: `damp` changed `{changed}` of the dir"):
        step(model, optimizer, batch)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    optimizer.param_groups[0]["damping"] = Cubic()  # the pass is still there, and the spoilt tensors are not
    optimizer.step()
    other, second, _ = optimizer_of(Cubic(), samples=samples)
    step(other, second, batch)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-12, atol=0)


def test_a_strategy_inside_another_is_the_one_that_is_named():
    model, optimizer, batch = optimizer_of({"kind": "maximum", "of": [Spoiling(name="evals"), {"kind": "constant"}]})
    with pytest.raises(StrategyError, match="group 0: damping 'Spoiling'"):
        step(model, optimizer, batch)
    model, optimizer, batch = optimizer_of(Cubic(), SpoilingCriterion())
    with pytest.raises(StrategyError, match=r"criterion 'SpoilingCriterion' .*: `select` changed `evals`"):
        step(model, optimizer, batch)
    optimizer.param_groups[0]["criterion"] = Last()
    optimizer.step()
    other, second, _ = optimizer_of(Cubic(), Last())
    step(other, second, batch)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["evals", "all_evals", "loss_gammas", "loss_lambdas"])
def test_a_tensor_that_changes_in_observe_is_noticed(name):
    model, optimizer, batch = optimizer_of(Spoiling(name=name, late=True))
    with pytest.raises(StrategyError, match=r"^group 0, after the step: damping 'Spoiling' .*: `observe` changed `"):
        step(model, optimizer, batch)


def test_reused_directions_are_not_those_that_a_strategy_keeps():
    """With `every`, `observe` of a later step changes the tensors of an earlier one."""
    model, optimizer, batch = optimizer_of(Spoiling(name="evals", late=True), every=3)
    with pytest.raises(StrategyError, match="`observe` changed `evals`"):
        step(model, optimizer, batch)
    held = optimizer._progress.held[0].evals.clone()
    step(model, optimizer, batch)  # nothing that the optimizer has is changed any more
    assert torch.equal(optimizer.last_step[0].evals, held)


def test_the_modes_of_torch_after_a_step_are_those_before():
    class Leaving(Cubic):
        """Turns the gradient off for good."""

        def damp(self, directions):
            torch.set_grad_enabled(True)
            return super().damp(directions)

        def observe(self, outcome):
            torch.set_grad_enabled(False)

    model, optimizer, batch = optimizer_of(Leaving())
    step(model, optimizer, batch)
    assert torch.is_grad_enabled()


class Free(Cubic):
    """Has any state."""

    _value: Any = PrivateAttr(None)


READABLE = {
    "numbers": [True, 1, 2**100, 1.5, 1j, float("nan")],
    "texts": {"a": "text", "b": b"bytes", "c": None},
    "tables": {1: (2, [3]), "set": {4}, (5, 6): collections.OrderedDict(a=1), "counts": collections.Counter("aab")},
    "tensors": [torch.ones(2), nn.Parameter(torch.ones(1)), torch.float32, torch.device("cpu"), torch.Size([1])],
}
UNREADABLE = {
    "numpy.float64": np.float64(1.0),
    "numpy.float32": [1.0, np.float32(1.0)],
    "numpy.ndarray": {"a": {"b": np.ones(2)}},
    "collections.deque": collections.deque([1.0]),
    "collections.defaultdict": collections.defaultdict(list),
    "frozenset": frozenset({1}),
    "Fraction": {fractions.Fraction(1, 2): 1},
    "Outcome": "outcome",
}


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", READABLE)
def test_plain_states_are_saved_and_read(name):
    model, optimizer, batch = optimizer_of(Free())
    step(model, optimizer, batch)
    itself: list[Any] = [READABLE[name]]
    itself.append(itself)
    for value in (READABLE[name], itself):
        optimizer.param_groups[0]["damping"]._value = value
        state = saved_and_loaded(optimizer.state_dict())
        found = state["param_groups"][0]["damping"]["state"]["own"]["_value"]
        assert str(found) == str(value)


@pytest.mark.parametrize("name", UNREADABLE)
def test_other_states_are_refused_when_they_are_saved(name):
    model, optimizer, batch = optimizer_of({"kind": "maximum", "of": [Free(), {"kind": "levenberg-marquardt"}]})
    optimizer.backward(F.cross_entropy(model(batch[0]), batch[1]))
    optimizer.step(lambda: F.cross_entropy(model(batch[0]), batch[1]))
    value = UNREADABLE[name]
    optimizer.param_groups[0]["damping"].of[0]._value = optimizer._progress.outcomes[0] if value == "outcome" else value
    message = rf"^group 0: damping 'Free' .*: its state has a value of type [\w.]*{name}[\w.]* in '_value[.\w]*'"
    with pytest.raises(StrategyError, match=message):
        optimizer.state_dict()


def test_a_state_of_an_author_is_checked_too():
    class Own(Damping):
        """Saves its state itself."""

        def damp(self, directions):
            return torch.ones_like(directions.evals)

        def state_dict(self):
            return {"own": {}, "more": np.float64(1.0)}

    with pytest.raises(
        StrategyError, match=r"damping 'Own' .*: its state has a value of type numpy\.float64 in 'more'"
    ):
        Own().saved_state()


def test_attributes_that_no_state_would_contain_are_refused():
    class Setting(Damping):
        """Sets an attribute."""

        name: str

        def damp(self, directions):
            setattr(self, self.name, 1.0)
            return torch.ones_like(directions.evals)

    for name, advice in (("last", "declare `_last: ... = PrivateAttr"), ("_last", "Declare `_last: ... = PrivateAttr")):
        model, optimizer, batch = optimizer_of(Setting(name=name))
        with pytest.raises(
            StrategyError, match=rf"^group 0: damping 'Setting' .* sets the attribute '{name}'.*{advice}"
        ):
            step(model, optimizer, batch)
