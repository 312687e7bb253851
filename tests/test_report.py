"""Figures of `last_step`, and their cost."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from ddn_core import DirectionalDampedNewton
from ddn_core.engine import STAGES
from ddn_core.optim.report import NAMES
from ddn_core.testing import dense_twin

ALL = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 0.5}}
TOP = {**ALL, "criterion": {"kind": "top-k", "k": 3}}


def stepped(group, mlp, **settings):
    model, loss_function, X, y = mlp
    model = model.double()
    twin = dense_twin(model, loss_function, X.double(), y)
    optimizer = DirectionalDampedNewton(model.named_parameters(), [group], **settings)
    with optimizer.curvature():
        loss_function(model(X.double()), y).backward()
    optimizer.step()
    return optimizer.last_step[0], twin


@pytest.mark.parametrize("group", [ALL, TOP], ids=["solved", "along directions"])
def test_it_has_what_the_dense_twin_has(group, mlp):
    report, twin = stepped(group, mlp)
    count = len(report.evals)
    torch.testing.assert_close(report.evals, twin.evals[-count:])
    torch.testing.assert_close(report.lambdas, twin.evals[-count:])
    torch.testing.assert_close(report.gammas.abs(), twin.gammas.mean(0)[-count:].abs(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(report.coefficients, -report.gammas / (report.lambdas + 0.5))
    decrease = -(report.gammas * report.coefficients + 0.5 * report.lambdas * report.coefficients.square()).sum()
    assert report.predicted_decrease == pytest.approx(float(decrease), rel=1e-9)
    assert float(report.step_norm) == pytest.approx(float(report.coefficients.norm()), rel=1e-9)


@pytest.mark.parametrize("group", [ALL, TOP], ids=["solved", "along directions"])
def test_stages_have_their_seconds(group, mlp):
    report, _ = stepped(group, mlp)
    assert tuple(report.seconds) == STAGES
    assert all(seconds >= 0 for seconds in report.seconds.values())
    assert report.seconds["capture"] > 0
    assert report.seconds["gram"] > 0
    assert report.seconds["spectrum"] > 0
    assert report.seconds["step"] > 0


def test_derivatives_of_each_sample_are_there_if_they_are_wanted(mlp):
    report, twin = stepped(TOP, mlp, full_report=True)
    torch.testing.assert_close(report.sample_gammas.abs(), twin.gammas[:, -3:].abs(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(report.sample_lambdas, twin.lambdas[:, -3:], rtol=1e-6, atol=1e-9)
    assert stepped(TOP, mlp)[0].sample_gammas is None


@pytest.mark.parametrize("group", [ALL, TOP, {**TOP, "momentum": 0.5}], ids=str)
def test_it_is_plain_data(group, mlp):
    report, _ = stepped(group, mlp, full_report=True)
    table = json.loads(json.dumps(report.to_dict()))
    assert table["evals"] == report.evals.tolist()
    assert set(NAMES) <= set(table)
    assert table["directions"] >= len(report.evals)
    assert table["refreshed"] is True


def test_nothing_is_computed_for_a_report_that_nobody_reads(mlp, monkeypatch):
    """A step that is solved for has its spectrum when it is read, and not before."""
    calls = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda *a: calls.append(1) or eigh(*a))
    report, _ = stepped(ALL, mlp)
    after_twin = len(calls)
    assert report.uniform_damping == 0.5
    _ = report.step_norm, report.predicted_decrease
    assert len(calls) == after_twin
    _ = report.evals
    assert len(calls) == after_twin + 1
    _ = report.gammas, report.deltas
    assert len(calls) == after_twin + 1


def test_the_prediction_with_momentum_is_made_where_somebody_wants_it(mlp):
    group = {**TOP, "momentum": 0.5}
    assert math.isnan(stepped(group, mlp)[0].predicted_decrease)
    assert stepped(group, mlp, full_report=True)[0].predicted_decrease > 0
    assert stepped({**group, "max_kl": 1.0}, mlp)[0].predicted_decrease > 0


@pytest.mark.parametrize("damping", [1e-3, 1e3], ids=["little", "much"])
def test_the_image_of_a_solution_does_not_cancel(mlp, damping):
    """In float32, by either of the two ways, against float64."""
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 30), nn.Tanh(), nn.Linear(30, 3)).to(dtype)
        loss_function = nn.CrossEntropyLoss()
        group = {**ALL, "damping": {"kind": "constant", "value": damping}}
        optimizer = DirectionalDampedNewton(model.named_parameters(), [group])
        with optimizer.curvature():
            loss_function(model(mlp[2].to(dtype)), mlp[3]).backward()
        optimizer.step()
        found.append((float(optimizer.last_step[0].step_norm), optimizer.last_step[0].predicted_decrease))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_notebook_shows_a_table(mlp):
    report, _ = stepped(TOP, mlp)
    shown = report._repr_html_()
    assert "<th>predicted decrease</th>" in shown
    assert f"<td>{report.predicted_decrease:.3g}</td>" in shown
    assert "<td>3</td>" in shown
