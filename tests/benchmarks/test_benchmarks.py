"""The benchmark itself: networks, what is measured alone, what is said about it, and one case through the command line."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from benchmarks.architectures import ARCHITECTURES, PROBLEMS
from benchmarks.cases import Case, comparison_cases
from benchmarks.command_line import app
from benchmarks.measuring.columns import fastest_backpropagation, layers_with_columns, loss_hessian_root
from benchmarks.measuring.eigensolver import leading_eigenvectors
from benchmarks.measuring.failure import FAILED, NOT_INSTALLED, OVER_TIME, failure, failure_of
from benchmarks.measuring.largest_batch import largest_batch
from benchmarks.measuring.layer_gram import fastest_way, total_gram
from benchmarks.measuring.least_squares import time_fits
from benchmarks.measuring.memory import memory_of_step
from benchmarks.measuring.own_process import in_own_process
from benchmarks.measuring.reference import errors_of_sides, reference_steps
from benchmarks.measuring.timing import time_sides
from benchmarks.measuring.unavoidable import OPERATIONS, time_operations
from benchmarks.parts import PARTS
from benchmarks.problems import Problem, make_problem, parameter_groups
from benchmarks.settings import Settings
from benchmarks.sides.vivit import symeig
from ddn_core.testing import dense_ggn, dense_twin

PARAMETERS = {
    "mlp-64": 17_226,
    "mlp-784": 235_146,
    "2c2d": 3_274_634,
    "3c3d": 895_210,
    "all-cnn-c": 1_387_108,
    "resnet-32": 464_154,
}
HEADLINE = "mlp-64/one-group/exact/top-10"


@pytest.fixture
def tiny():
    """A problem with a convolution, batch normalization and a linear layer, in float64."""
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 1.5)
    return Problem(
        model.eval().double(), nn.CrossEntropyLoss(), torch.randn(4, 2, 3, 3).double(), torch.randint(3, (4,))
    )


@pytest.mark.parametrize("problem", PROBLEMS)
def test_architectures_have_the_parameters_and_outputs_of_the_papers(problem):
    case = Case(problem, samples=2)
    model = ARCHITECTURES[problem].build(case.size)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[problem]
    found = make_problem(case)
    assert found.model(found.inputs).shape == (2, case.size.classes)


def test_problems_are_the_same_every_time_and_leave_the_generator_alone():
    state = torch.random.get_rng_state()
    first, second = make_problem(Case("resnet-32", samples=2)), make_problem(Case("resnet-32", samples=2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.loss(), second.loss())
    statistics = next(layer for layer in first.model.modules() if isinstance(layer, nn.BatchNorm2d))
    assert statistics.running_var.std() > 0


def test_sizes_grow_and_impossible_ones_are_refused():
    assert Case("3c3d", samples=3, classes=7).columns == 21
    assert Case("all-cnn-c", curvature="mc-1").columns == 32
    wide = Case("mlp-64", width=2).architecture.build(Case("mlp-64", width=2).size)
    assert wide[0].out_features == 256
    with pytest.raises(ValueError, match="one depth only"):
        _ = Case("2c2d", depth=3).size
    with pytest.raises(ValueError, match="6 n \\+ 2"):
        make_problem(Case("resnet-32", depth=9))


def test_groups_cover_all_parameters_in_order():
    model = make_problem(Case("resnet-32", samples=1)).model
    for grouping, count in (("one-group", 1), ("per-layer", 63)):
        groups = parameter_groups(model, grouping)
        assert len(groups) == count
        flat = [id(parameter) for group in groups for parameter in group]
        assert flat == [id(parameter) for parameter in model.parameters()]


def test_case_globs():
    assert len(comparison_cases()) == 48
    assert [case.name for case in comparison_cases(HEADLINE)] == [HEADLINE]


@pytest.mark.parametrize("grouping", ["one-group", "per-layer"])
def test_reference_agrees_with_the_dense_twin(tiny, grouping):
    steps = reference_steps(tiny, grouping)
    expected = {"all": [], "top-10": []}
    for group in parameter_groups(tiny.model, grouping):
        names = [name for name, value in tiny.model.named_parameters() if any(value is own for own in group)]
        twin = dense_twin(tiny.model, tiny.loss_function, tiny.inputs, tiny.targets, names)
        nonzero = [index for index, value in enumerate(twin.evals) if value > 1e-12 * twin.evals.max()]
        expected["all"].append(twin.step(nonzero, 1.0))
        expected["top-10"].append(twin.step(nonzero[-10:], 1.0))
    for criterion, step in expected.items():
        torch.testing.assert_close(steps[criterion], torch.cat(step), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("way", [0, 1, -1])
def test_gram_of_the_unavoidable_operations_has_the_spectrum_of_the_dense_ggn(tiny, way):
    expected = torch.linalg.eigvalsh(dense_ggn(tiny.model, tiny.loss_function, tiny.inputs, tiny.targets))
    layers = layers_with_columns(tiny)
    gram = total_gram(layers, [layer.ways()[way] for layer in layers])
    torch.testing.assert_close(torch.linalg.eigvalsh(gram), expected[-len(gram) :], rtol=1e-9, atol=1e-12)
    assert callable(fastest_way(layers[0]))
    assert fastest_backpropagation(tiny)[0] in (1, 3)


def test_root_of_the_loss_hessian():
    outputs = torch.randn(2, 3, dtype=torch.float64)
    root = loss_hessian_root(outputs)
    p = outputs.softmax(1)
    hessians = (p.diag_embed() - p[:, :, None] * p[:, None, :]) / 2
    torch.testing.assert_close(torch.einsum("kni,knj->nij", root, root), hessians)


def test_eigensolver_is_accurate():
    factor = torch.randn(50, 50)
    name, solve = leading_eigenvectors(factor @ factor.T, 3)
    evals, _ = solve()
    assert name
    torch.testing.assert_close(
        evals.sort()[0].float(), torch.linalg.eigvalsh(factor @ factor.T)[-3:], rtol=1e-4, atol=0
    )


def test_symeig_is_what_torch_had():
    matrix = torch.tensor([[2.0, 1.0], [7.0, 2.0]])  # only the upper triangle counts
    evals, evecs = symeig(matrix, eigenvectors=True)
    torch.testing.assert_close(evals, torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(evecs @ evals.diag() @ evecs.T, torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
    assert symeig(matrix)[1].numel() == 0


def test_measurements_of_a_tiny_case():
    case = asdict(Case("mlp-64", samples=2))
    sides = ["gradient", "ours", "vivit"]
    found = time_sides(case, sides, repetitions=2, repeat_slow=True, device="cpu")
    assert found["ours"]["seconds"] > 0
    assert found["ours"]["finite"]
    assert memory_of_step(case, "ours", "cpu")["bytes"] > 0
    errors = errors_of_sides(case, sides[1:])
    assert errors["top-10"]["ours"]["error"] < 1e-4
    for result in (found["vivit"], errors["top-10"]["vivit"]):
        assert ("failure" in result) == (find_spec("vivit") is None)
    times = time_operations(asdict(Case("2c2d", samples=1)), repetitions=1, device="cpu")
    assert all(times[operation]["seconds"] > 0 for operation in OPERATIONS)


def test_small_model_on_a_big_batch():
    found = time_fits(repetitions=1, device="cpu")
    assert found["ours"]["seconds"] > 0
    assert found["theirs"].get("failure") == (None if find_spec("torch_levenberg_marquardt") else NOT_INSTALLED)


def test_failures_are_told_apart():
    assert failure_of(ModuleNotFoundError("no vivit"))["failure"] == NOT_INSTALLED
    assert failure_of(RuntimeError("not enough memory: you tried to allocate"))["failure"] == "out of memory"
    assert failure_of(ValueError("what"))["detail"] == "ValueError: what"


def test_own_process(tmp_path):
    settings = Settings(tmp_path, threads=1)
    assert in_own_process(failure, {"reason": "a", "detail": "b"}, settings) == {"failure": "a", "detail": "b"}
    assert in_own_process(failure, {"nonsense": 1}, settings)["failure"] == FAILED
    assert in_own_process(time_sides, {}, settings, limit=0.01)["failure"] == OVER_TIME


def test_largest_batch_is_found_or_extrapolated():
    def probe(samples):
        return {"bytes": 100 + 10 * samples + 0.5 * samples**2, "seconds": 0.0}

    found = largest_batch(probe, start=2, budget=10_000, limit=60)
    assert found["made"]
    assert 9_500 <= probe(found["largest"])["bytes"] <= 10_000
    assert largest_batch(probe, start=300, budget=10_000, limit=60)["made"]
    extrapolated = largest_batch(probe, start=2, budget=10_000, limit=0)
    assert not extrapolated["made"]
    assert extrapolated["reason"] == "no time left"
    assert largest_batch(lambda _: failure("out of memory"), 2, 1, 60)["largest"] is None


def _speeds(ours, vivit, left_out=()):
    side = {"fastest": 1.0, "slowest": 1.0, "runs": 5, "finite": True}
    return [
        {"case": asdict(Case(problem)), "gradient": side | {"seconds": 1.0}, "ours": ours, "vivit": vivit}
        for problem in PROBLEMS
        if problem not in left_out
    ]


def _time(seconds):
    return {"seconds": seconds, "fastest": seconds, "slowest": seconds, "runs": 5, "finite": True}


@pytest.mark.parametrize(
    ("ours", "vivit", "left_out", "verdicts"),
    [
        (_time(1.0), _time(30.0), (), [True, True]),
        (_time(1.0), _time(9.0), (), [True, False]),
        (_time(1.0), _time(2.0), ("2c2d",), [False, None]),
        (_time(1.0), _time(30.0), ("2c2d",), [None, None]),
        (_time(1.0), failure(NOT_INSTALLED), (), [None, None]),
        (failure(FAILED), _time(9.0), (), [False, False]),
    ],
)
def test_targets_are_judged(ours, vivit, left_out, verdicts):
    summary = PARTS["speed"].summarize(_speeds(ours, vivit, left_out))
    assert [target.met for target in summary.targets] == verdicts


def test_command_line(tmp_path):
    runner, results, documentation = CliRunner(), tmp_path / "results", tmp_path / "docs"
    ran = runner.invoke(app, ["speed", "--quick", "--case", HEADLINE, "--results", str(results), "--threads", "1"])
    assert ran.exit_code == 0, ran.output
    kept = json.loads((results / "speed.json").read_text())
    (measurement,) = kept["measurements"]
    assert measurement["ours"]["seconds"] > 0
    assert kept["environment"]["packages"]["torch"] == torch.__version__
    assert kept["environment"]["threads"] == 1
    if find_spec("vivit") is None:
        assert measurement["vivit"]["failure"] == NOT_INSTALLED
        assert NOT_INSTALLED in (results / "speed.md").read_text()
    assert (results / "speed-steps.png").stat().st_size > 0

    ran = runner.invoke(app, ["report", "--results", str(results), "--docs", str(documentation)])
    assert ran.exit_code == 0, ran.output
    page = (documentation / "benchmarks.md").read_text()
    assert "## Speed" in page
    assert "_static/benchmarks/speed-steps.png" in page
    assert (documentation / "_static" / "benchmarks" / "speed-steps.png").exists()


def test_check_fails_where_a_target_is_missed(tmp_path):
    result = {
        "environment": {
            "date": "",
            "device": "",
            "cores": 1,
            "threads": 1,
            "python": "",
            "packages": {},
            "repetitions": 5,
            "quick": False,
        },
        "seconds": 1.0,
        "measurements": _speeds(_time(1.0), _time(2.0)),
    }
    (tmp_path / "speed.json").write_text(json.dumps(result))
    arguments = ["report", "--results", str(tmp_path), "--docs", str(tmp_path / "docs")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert CliRunner().invoke(app, [*arguments, "--check"]).exit_code == 1


@pytest.mark.slow
def test_evidence_is_measured_and_judged(tmp_path):
    """A quick run of the real configs; what needs a peer that is not installed is told as failed."""
    ran = CliRunner().invoke(app, ["evidence", "--quick", "--results", str(tmp_path), "--threads", "1"])
    assert ran.exit_code == 0, ran.output
    found = json.loads((tmp_path / "evidence.json").read_text())["measurements"]
    assert {m["problem"] for m in found} == {"autoencoder", "regression", "sinc", "digits", "overhead"}
    for measurement in found:
        if measurement["problem"] == "overhead":
            assert measurement["alone"] > 0
            assert measurement["whole"] > 0
        elif measurement["problem"] != "sinc" or find_spec("torch_levenberg_marquardt") is not None:
            for side in ("ours", "theirs"):
                assert measurement[side][-1]["seconds"] > 0
    (autoencoder,) = (m for m in found if m["problem"] == "autoencoder")
    assert autoencoder["theirs"][-1]["step"] == 2 * 44
    assert autoencoder["ours"][-1]["step"] <= 9


def _run(steps, seconds, loss, reached=True):
    point = {"step": steps, "seconds": seconds, "loss": loss}
    return {
        "problem": "sinc",
        "ours": [point],
        "theirs": [{"step": 300, "seconds": 1.0, "loss": 1.0}],
        "reached": reached,
    }


@pytest.mark.parametrize(
    ("runs", "measured", "met"),
    [
        ([_run(100, 0.5, 1.0)] * 3, "0.5 times", True),
        ([_run(100, 0.5, 1.0), _run(100, 2.0, 1.0), _run(100, 3.0, 1.0)], "2 times", False),
        ([_run(100, 0.5, 2.0, reached=False)] * 2 + [_run(100, 0.5, 1.0)], "inf times", False),
    ],
)
def test_evidence_is_judged_by_the_median_and_a_run_that_did_not_get_there_is_infinite(runs, measured, met):
    overhead = {"problem": "overhead", "case": "top 10", "whole": 1.0, "alone": 0.96}
    targets = PARTS["evidence"].summarize([*runs, overhead]).targets
    assert [(target.measured, target.met) for target in targets] == [(measured, met), ("4.0%", True)]
