"""`ddn_core.training.train`: a script trains from a config in one call, and gets what `ddn train` writes."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from ddn_core.api import Problem, ProblemParts
from ddn_core.cli.app import app
from ddn_core.config import load_config
from ddn_core.errors import ArgumentError, ConfigError, DdnError
from ddn_core.runs import EvaluationEvent, RunRecord, StepEvent
from ddn_core.runs.checkpoints import load_checkpoint
from ddn_core.traces import Trace
from ddn_core.training import train

TEXT = """
problem = { kind = "digits-mlp", hidden = [4] }
training = { epochs = 2 }
[[groups]]
params = ["*"]
criterion = { kind = "top-k", k = 5 }
damping = { kind = "constant", value = 1.0 }
lr = 0.5
"""
TABLE = {
    "problem": {"kind": "digits-mlp", "hidden": [4]},
    "training": {"epochs": 2},
    "groups": [{"params": ["*"], "criterion": {"kind": "top-k", "k": 5}, "damping": {"kind": "constant"}, "lr": 0.5}],
}
TIMES = ("seconds", "step_seconds")


class Line(Problem):
    """A problem that no plugin has."""

    def load(self):
        """Return a line through points."""
        X = torch.linspace(-1, 1, 8).unsqueeze(1)
        batches = [(X, 2 * X)]
        return ProblemParts(torch.nn.Sequential(torch.nn.Linear(1, 1)), torch.nn.MSELoss(), batches, batches)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(TEXT)
    return path


def events(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def assert_same_run(one, other):
    assert {path.name for path in one.rglob("*")} == {path.name for path in other.rglob("*")}
    assert json.loads((one / "config.resolved.json").read_text()) == json.loads(
        (other / "config.resolved.json").read_text()
    )
    assert events(one) == events(other)
    assert (one / "run.png").read_bytes() == (other / "run.png").read_bytes()
    weights, others = (load_checkpoint(folder / "checkpoint.pt")["model"] for folder in (one, other))
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_the_run_folder_is_that_of_the_command(config, tmp_path):
    arguments = ["train", config, "--out", tmp_path / "command", "--record", "--set", "training.epochs=1"]
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
    result = train(config, tmp_path / "call", record=True, overrides=["training.epochs=1"])
    assert result.finished
    assert result.folder == tmp_path / "call"
    assert_same_run(tmp_path / "command", tmp_path / "call")
    assert Trace.read(result.folder).rows() == Trace.read(tmp_path / "command").rows()
    assert result.metrics["accuracy"] == RunRecord.read(result.folder).epochs[-1].test_metrics["accuracy"]


def test_a_path_a_table_and_a_config_are_the_same_and_nothing_is_written(config, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    short = ["training.epochs=1"]
    results = [train(given, overrides=short) for given in (config, str(config), TABLE, load_config(config))]
    assert len({tuple(sorted(result.metrics.items())) for result in results}) == 1
    assert set(results[0].metrics) == {"train_loss", "test_loss", "accuracy"}
    assert [result.config.training.epochs for result in results] == [1] * 4
    assert results[0].folder is results[0].recorder is None
    assert TABLE["training"] == {"epochs": 2}
    assert list((tmp_path / "empty").iterdir()) == []


def test_callbacks_follow_the_run(config):
    starts, seen = [], []
    result = train(config, on_start=starts.append, on_event=seen.append)
    steps = [event for event in seen if isinstance(event, StepEvent)]
    assert [(start.step, start.total_steps, start.notes) for start in starts] == [(0, len(steps), ())]
    assert steps == result.history.steps
    assert [event for event in seen if isinstance(event, EvaluationEvent)] == result.history.epochs
    assert result.finished


def test_a_run_that_was_stopped_continues(config, tmp_path):
    train(config, tmp_path / "whole")
    seen, starts = [], []
    first = train(config, tmp_path / "parts", on_event=seen.append, should_stop=lambda: len(seen) == 5)
    assert not first.finished
    assert first.metrics == {}
    second = train(resume=tmp_path / "parts", on_start=starts.append)
    assert second.finished
    assert starts[0].step == 5
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(ArgumentError, match="is finished"):
        train(resume=tmp_path / "parts")


def test_a_problem_and_functions_of_a_script_are_trained_without_a_folder(tmp_path):
    group = {"params": ["*"], "criterion": lambda evals: [len(evals) - 1], "damping": {"kind": "constant"}}
    table = {"problem": Line(), "training": {"epochs": 3}, "groups": [group]}
    losses = [event.loss for event in train(table).history.steps]
    assert losses[2] < losses[0]
    with pytest.raises(ArgumentError, match="can be trained again, and this one cannot"):
        train(table, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Pass either a config or"),
        ({"config": TABLE, "resume": "run"}, "Pass either a config or"),
        ({"resume": "run", "overrides": ["training.epochs=1"]}, "A resumed run keeps its folder"),
        ({"resume": "run", "out": "other"}, "A resumed run keeps its folder"),
        ({"resume": "run", "record": True}, "A resumed run keeps its folder"),
        ({"resume": "run"}, "There is no run in run: the folder does not exist"),
        ({"config": TABLE, "record": True}, "needs a run folder"),
        ({"config": TABLE, "out": "full"}, "full is not empty"),
    ],
)
def test_errors_in_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ArgumentError, match=message):
        train(**arguments)


def test_errors_in_the_config():
    with pytest.raises(ConfigError, match=r"config: 1 error\n  training.epochs"):
        train(TABLE, overrides=["training.epochs=0"])
    with pytest.raises(ConfigError, match=r"mine: problem: is missing"):
        train({"groups": TABLE["groups"]}, source="mine")
    with pytest.raises(ConfigError, match=r"c.yaml: cannot be read"):
        train("c.yaml")


@pytest.mark.parametrize("callback", ["on_start", "on_event"])
def test_the_error_of_a_callback_is_raised(callback, tmp_path):
    def fail(value):
        raise DdnError("not today")

    with pytest.raises(DdnError, match="not today"):
        train(TABLE, tmp_path / "run", **{callback: fail})
    assert (tmp_path / "run").exists() == (callback == "on_event")  # a run without a step leaves nothing


def test_the_example_runs():
    (example,) = doctest.DocTestFinder(recurse=False).find(train, "train", module=False)
    assert doctest.DocTestRunner().run(example) == doctest.TestResults(0, 5)


def test_training_needs_no_command_line_and_imports_no_integration():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('typer', 'rich', 'matplotlib', 'plotly')))\n"
        "from ddn_core.training import train\n"
        f"print(train({TABLE!r}, overrides=['training.epochs=1']).finished)\n"
        "assert not {'lightning', 'tensorboard'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
