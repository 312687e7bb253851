"""Steps of the optimizer against SGD, and the part for GPUs: all but the GPU runs here, on the CPU."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.architectures.small import SMALL_MODELS
from benchmarks.command_line import app
from benchmarks.measuring import training_steps, verification
from benchmarks.measuring.failure import FAILED, failure
from benchmarks.measuring.training_steps import SIDES, TrainingStep
from benchmarks.parts import PARTS, cuda, steps
from benchmarks.reporting import part as reporting
from benchmarks.reporting.part import Part
from benchmarks.reporting.summary import Summary
from benchmarks.settings import Settings
from benchmarks.workloads import WORKLOADS


@pytest.fixture
def in_this_process(monkeypatch):
    """Measure in this process, which is quicker."""

    def call(function, arguments, settings, limit=None):
        return function(**arguments)

    for part in (cuda, steps):
        monkeypatch.setattr(part, "in_own_process", call)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def progress(line):
    assert line


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_small_models_agree_with_dense_matrices(name):
    errors = verification.errors_of_model(name, "cpu")
    assert max(errors.values()) < 1e-5
    assert ("step to cpu" in errors) == (name != "transformer, MC-1")


def test_a_wrong_ggn_or_step_is_found(monkeypatch):
    right = verification.by_engine

    def wrong(batch, mc_samples, device):
        found = right(batch, mc_samples, device)
        return replace(found, step=1.01 * found.step)

    monkeypatch.setattr(verification, "by_engine", wrong)
    errors = verification.verify_models(["MLP", "nonsense"], "cpu")
    assert errors["MLP"]["ggn"] < 1e-5
    assert errors["MLP"]["step"] == pytest.approx(0.01, rel=1e-3)
    assert errors["nonsense"]["failure"] == FAILED
    measurements = [{"model": name, "errors": found} for name, found in errors.items()]
    for chosen in ([measurements[0]], [measurements[1]]):
        (target,) = cuda.summarize(chosen).targets
        assert target.met is False


@pytest.mark.parametrize("side", SIDES)
def test_each_side_makes_the_same_step_every_time(side):
    made = TrainingStep(WORKLOADS["mlp-30"], side, "cpu")
    weight = next(made.batch.model.parameters())
    found = []
    for _ in range(2):
        made.restore()
        made.step()
        found.append(weight.detach().clone())
    assert torch.equal(*found)
    assert not torch.equal(found[0], next(WORKLOADS["mlp-30"].make().model.parameters()))
    assert made.is_finite()


def test_steps_are_measured(in_this_process):
    (found,) = steps.measure(Settings(None, quick=True, repetitions=1), progress)
    assert found["workload"] == "mlp-30"
    assert all(found[side]["finite"] and found[side]["seconds"] > 0 for side in SIDES)
    assert all("bytes" in found["memory"][side] for side in SIDES)
    assert 54 < found["counts"]["calls"] <= 250
    summary = steps.summarize([found])
    assert summary.tables[0].rows[0][-2:] == [str(found["counts"]["calls"]), str(found["counts"]["reads"])]
    assert [target.met for target in summary.targets[1:]] == [None, None, None]
    assert "times" in steps.draw([found])


@pytest.mark.parametrize(
    ("seconds", "verdicts"),
    [(2.0, [True] * 4), (2.5, [True, False, True, True]), (2.9, [True, False, True, False]), (9.0, [False] * 4)],
)
def test_targets_of_steps_are_judged(seconds, verdicts):
    sides = {"gradient": {"seconds": 1.0}, "ours": {"seconds": seconds}, "counts": {}}
    found = [{"workload": name, "memory": dict.fromkeys(SIDES), **sides} for name in WORKLOADS]
    assert [target.met for target in steps.summarize(found).targets] == verdicts
    found[0] |= {"ours": failure(FAILED)}
    assert steps.summarize(found).targets[0].met is False


def test_the_part_for_gpus_measures_any_device(in_this_process):
    verified, timed = cuda.measure(Settings(None, quick=True, repetitions=1, device="cpu"), progress)
    assert verified["model"] == "MLP"
    assert timed["workload"] == "mlp-30"
    timed["counts"]["waits"] = 7
    timed["memory"] = {side: {"bytes": 5e6} for side in SIDES}
    summary = cuda.summarize([verified, timed])
    assert summary.targets[0].met is True
    errors, costs = summary.tables
    assert errors.rows[0][0] == "MLP"
    assert costs.columns[-1] == "waits"
    assert costs.rows[0][-1] == "7"
    assert "5.0 MB" in costs.rows[0]
    assert "times" in cuda.draw([verified, timed])


def test_workloads_of_both_parts_exist():
    assert {*steps._MEASURED, *cuda._TIMED, *cuda._QUICK_TIMED} <= set(WORKLOADS)
    assert cuda._VERIFY_LIMIT + cuda._TIME_LIMIT * len(cuda._TIMED) < 360


def test_waits_are_those_that_torch_reports(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step():
        for message in ("called a synchronizing CUDA operation (Triggered internally)", "something else"):
            for _ in range(2):
                warnings.warn(message, stacklevel=1)

    assert training_steps._waits(step) == 2
    assert modes == ["warn", "default"]


def test_without_a_gpu_the_command_and_the_page_say_so(no_gpu, tmp_path):
    runner, results = CliRunner(), tmp_path / "results"
    ran = runner.invoke(app, ["cuda", "--results", str(results)])
    assert ran.exit_code == 0, ran.output
    assert ran.output.strip() == "On a GPU: not run, because this machine has no GPU that torch can use."
    assert not results.exists()
    ran = runner.invoke(app, ["report", "--results", str(results), "--docs", str(tmp_path / "docs")])
    assert ran.exit_code == 0, ran.output
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "## On a GPU" in page
    assert "This part was not run" in page


def test_with_a_gpu_the_part_runs_there_and_the_page_has_its_result(monkeypatch, tmp_path):
    monkeypatch.setattr(reporting, "environment", lambda settings: {"device": settings.device, "quick": True})
    part = Part("fake", "Fake", "", lambda settings, progress: [{"device": settings.device}], _no_summary, _no_figure)
    settings = Settings(tmp_path)
    for needs_gpu, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(reporting, "_write", lambda result, folder: None)
        result = reporting.run(replace(part, needs_gpu=needs_gpu), settings, progress)
        assert result.measurements == [{"device": device}]
    errors = {"ggn": 1e-7, "step": 1e-7}
    environment = dict.fromkeys(["date", "device", "cores", "threads", "python", "repetitions"], "") | {
        "packages": {},
        "quick": False,
    }
    stored = {"environment": environment, "seconds": 1.0, "measurements": [{"model": "MLP", "errors": errors}]}
    (tmp_path / "cuda.json").write_text(json.dumps(stored))
    ran = CliRunner().invoke(app, ["report", "--results", str(tmp_path), "--docs", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| MLP | 1.0e-07 | 1.0e-07 | other draws | other draws |" in page
    assert "This part was not run" not in page


def _no_summary(measurements):
    return Summary([])


def _no_figure(measurements):
    return {}


def test_parts_are_commands():
    assert {"steps", "cuda"} <= set(PARTS)
