"""`ddn estimate`: what a step will take, from shapes alone."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from ddn_core import DirectionalDampedNewton
from ddn_core.cli.app import app
from ddn_core.engine import GroupRequest, Subsampling, estimate, root_of
from ddn_core.engine.capture.budget import GRAM_COPIES
from ddn_core.errors import MemoryBudgetError
from tests.engine.memory_cases import noted_plans

CONFIG = """
[problem]
kind = "digits-cnn"

[[groups]]
params = ["0.*"]
criterion = { kind = "top-k", k = 5 }
damping = { kind = "constant", value = 1.0 }

[[groups]]
params = ["*"]
criterion = { kind = "all" }
damping = { kind = "constant", value = 1.0 }
"""


def _run(tmp_path, *options, config=CONFIG):
    (tmp_path / "train.toml").write_text(config)
    return CliRunner().invoke(app, ["estimate", str(tmp_path / "train.toml"), *options], env={"COLUMNS": "120"})


def test_table_has_every_group_and_layer(tmp_path):
    result = _run(tmp_path)
    assert result.exit_code == 0, result.output
    for heading in ("group", "stage", "columns", "how", "operations", "bytes", "share"):
        assert heading in result.output
    for stage in ("backpropagation", "0.weight, 0.bias", "eigensolver", "V · w", "cholesky", "kept formed"):
        assert stage in result.output
    shares = [int(share) for share in re.findall(r"(\d+)%", result.output)]
    assert abs(sum(shares) - 100) <= len(shares)
    assert "beyond the gradient's memory" in result.output


def test_a_budget_that_is_too_small_and_a_missing_problem_are_told(tmp_path):
    refused = _run(tmp_path, "--set", "curvature.memory_budget=1000")
    assert refused.exit_code == 1
    assert "The memory budget is 1 kB" in refused.output
    missing = _run(tmp_path, config=CONFIG[CONFIG.index("[[groups]]") :])
    assert missing.exit_code == 1
    assert "add a [problem] table" in missing.output


def test_what_strategies_know_beforehand_is_used(tmp_path):
    """k = outputs is the number of classes, and a damping that is known without eigenpairs means a solve."""
    config = CONFIG[: CONFIG.rindex("[[groups]]")].replace('"0.*"', '"*"')
    by_name, by_number, other = (
        _run(tmp_path, "--set", f"groups.0.criterion.k={k}", "--set", "problem.batch_size=128", config=config).output
        for k in ('"outputs"', 10, 5)
    )
    assert "krylov" in by_name
    assert by_name == by_number != other
    for kind, solver in {"gradient-norm": "cholesky", "levenberg-marquardt": "cholesky", "marquardt": "eigh"}.items():
        told = _run(tmp_path, "--set", f'groups.1.damping.kind="{kind}"').output
        (last,) = (line for line in told.splitlines() if line.split()[:2] == ["1", "eigensolver"])
        assert solver in last, kind


def _request(model, largest=None, solved=False):
    return GroupRequest({id(parameter): name for name, parameter in model.named_parameters()}, largest, solved)


def test_counts_are_those_of_the_mathematics():
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 7))
    inputs, targets = torch.rand(6, 3, 8, 8), torch.randint(0, 7, (6,))
    plan, stages = estimate(model, nn.CrossEntropyLoss(), inputs, targets, [_request(model, largest=3)])
    columns, features = 6 * 7, 3 * 25 + 1
    linear, convolution = plan.factors
    assert (linear.contraction, convolution.storage) == ("outer", "structured")
    assert linear.bytes == 4 * columns * 7  # the root at its output
    assert linear.gram_operations == 0.5 * (columns**2 * (7 + 8) + 6**2 * (8 * 16 + 1))
    assert convolution.bytes == 4 * columns * 8 * 16
    formed = 8 * features * (columns * 16 + 0.5 * columns**2)
    pairs = 0.5 * 6**2 * (16**2 * features + 7 * 8 * 16 * (16 + 7))
    assert convolution.gram_operations == min(formed, pairs)
    assert sum(stage.share for stage in stages) == pytest.approx(1.0)
    assert stages[-2].method == f"eigh, R = {columns}"


def test_columns_are_not_carried_below_the_lowest_parameter():
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 7))
    inputs, targets = torch.rand(6, 3, 8, 8), torch.randint(0, 7, (6,))
    plan, _ = estimate(model, nn.CrossEntropyLoss(), inputs, targets, [_request(model)])
    columns = 6 * 7
    through_linear, through_others = columns * 128 * 7, columns * (7 + 3 * 128)
    assert through_linear <= plan.propagation_operations <= 1.1 * (through_linear + through_others)


def test_each_group_s_eigensolver_holds_its_own_matrix():
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))
    inputs, targets = torch.rand(8, 30), torch.randint(0, 5, (8,))
    requests = [GroupRequest({id(p): n for n, p in layer.named_parameters()}, None, False) for layer in (model[0],)]
    requests.append(GroupRequest({id(model[2].bias): "bias"}, None, False))
    _, stages = estimate(model, nn.CrossEntropyLoss(), inputs, targets, requests)
    first, second = (stage.bytes for stage in stages if stage.stage == "eigensolver")
    assert first == 4 * GRAM_COPIES * 40**2  # R = 40
    assert second == 4 * (GRAM_COPIES * 5**2 + 2 * 40 * 5)  # P = 5, with the columns formed, twice


def test_nothing_of_the_model_s_size_is_allocated():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(10**5, 10**5), nn.ReLU(), nn.Linear(10**5, 10))
        inputs, targets = torch.empty(10**4, 10**5), torch.empty(10**4, dtype=torch.long)
    plan, _ = estimate(model, nn.CrossEntropyLoss(), inputs, targets, [_request(model)])
    assert plan.columns == 10**5
    assert plan.bytes > 10**11
    with pytest.raises(MemoryBudgetError, match=r"of at most \d+ samples"):
        estimate(model, nn.CrossEntropyLoss(), inputs, targets, [_request(model)], memory_budget=10**10)


SUBSAMPLINGS = {
    "all": {},
    "every index": {"ggn": [3, 1, 0, 2]},
    "directions": {"ggn": [2, 0]},
    "curvatures of others": {"ggn": [2, 0], "lambdas": [1, 3]},
    "curvatures of some": {"lambdas": [1]},
    "gradient": {"grad": [3, 0, 1]},
    "three choices": {"grad": [1], "ggn": [2, 1], "lambdas": [0]},
}


@pytest.mark.parametrize("name", SUBSAMPLINGS)
@pytest.mark.parametrize(
    "curvature", [{}, {"kind": "ggn-mc", "mc_samples": 2}, {"kind": "ggn-aligned"}], ids=["exact", "drawn", "aligned"]
)
def test_the_estimate_is_the_plan_of_a_real_pass(monkeypatch, curvature, name):
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Tanh(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(12, 5))
    inputs, targets = torch.rand(4, 2, 8), torch.randint(0, 5, (4,))
    subsampling = Subsampling(**SUBSAMPLINGS[name])
    root = root_of(curvature.get("mc_samples", 0), curvature.get("kind"))
    estimated, _ = estimate(model, nn.CrossEntropyLoss(), inputs, targets, [_request(model)], root, subsampling)
    plans = noted_plans(monkeypatch)
    curvature = curvature | {f"subsampling_{what}": indices for what, indices in SUBSAMPLINGS[name].items()}
    curvature = {**curvature, "memory_budget": None}
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=1.0, curvature=curvature)
    optimizer.backward(nn.functional.cross_entropy(model(inputs), targets))
    assert plans == [estimated]
