"""`ddn replay` and `ddn spectrum`, as a user calls them."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from typer.testing import CliRunner

from ddn_core.cli import app
from ddn_core.runs import RunRecord
from ddn_core.traces import Trace

pytestmark = pytest.mark.xdist_group("looking")

CONFIG = """
[problem]
kind = "digits-mlp"
hidden = [3]
activation = "tanh"
batch_size = 500

[training]
epochs = 3

[[groups]]
params = ["*"]
criterion = {kind = "all"}
damping = {kind = "constant", value = 0.5}
"""
ADAM = CONFIG.partition("[[groups]]")[0] + '[optimizer]\nkind = "adam"\nlr = 0.01\n'


def ddn(*arguments, status=0):
    result = CliRunner().invoke(app.app, list(map(str, arguments)))
    assert result.exit_code == status, result.output + result.stderr
    return result.output + result.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looking")
    (folder / "config.toml").write_text(CONFIG)
    (folder / "adam.toml").write_text(ADAM)
    (folder / "other.toml").write_text(CONFIG.replace("value = 0.5", "value = 0.01"))
    ddn("train", folder / "config.toml", "--record", "--out", folder / "run")
    ddn("train", folder / "adam.toml", "--out", folder / "adam")
    return folder


def test_training_records_what_it_says(place, tmp_path):
    trace = Trace.read(place / "run")
    steps = RunRecord.read(place / "run").steps
    assert [step.entry.step for step in trace] == [0, 1, 2, 5]
    for one in trace:
        event = steps[one.entry.step]
        assert (one.entry.loss, one.entry.loss_after) == (event.loss, event.loss_after)
        assert event.loss_after < event.loss
        assert one.groups[0].choice.predicted_decrease == pytest.approx(event.predicted_decrease, rel=1e-3)
        assert one.groups[0].choice.step_norm == pytest.approx(event.step_norm, rel=1e-3)
    assert steps[3].loss_after is None
    output = ddn(
        "train", place / "config.toml", "--record", "--set", "record={megabytes=0.5}", "--out", tmp_path / "run"
    )
    assert "of at most 0.5 MB" in output
    assert sum(path.stat().st_size for path in (tmp_path / "run" / "trace").glob("*.safetensors")) < 0.5e6


def test_recording_changes_nothing(place, tmp_path):
    ddn("train", place / "config.toml", "--out", tmp_path / "plain")
    plain, recorded = (RunRecord.read(folder) for folder in (tmp_path / "plain", place / "run"))
    assert [step.loss for step in plain.steps] == [step.loss for step in recorded.steps]
    one, other = (torch.load(folder / "checkpoint.pt")["model"] for folder in (tmp_path / "plain", place / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_has_no_curvature_is_not_recorded(place, tmp_path):
    output = ddn("train", place / "adam.toml", "--record", "--out", tmp_path / "run", status=1)
    assert "record: an optimizer of torch has no curvature to record" in output
    assert not (tmp_path / "run").exists()
    output = ddn("train", "--resume", place / "run", "--record", status=1)
    assert "Leave out --out, --set and --record" in output


def test_a_replay_is_shown_and_written(place, tmp_path):
    output = ddn("replay", place / "run", place / "config.toml", place / "other.toml", "--out", tmp_path / "out")
    assert "recorded" in output
    assert "other" in output
    rows = list(csv.DictReader((tmp_path / "out" / "replay.csv").read_text().splitlines()))
    assert len(rows) == 4 * 3
    by = {(row["candidate"], row["step"]): row for row in rows}
    same, ours, weak = by["recorded", "0"], by["config", "0"], by["other", "0"]
    assert float(same["predicted_decrease"]) == pytest.approx(float(ours["predicted_decrease"]), rel=1e-6)
    assert float(same["expected_decrease"]) == pytest.approx(float(ours["expected_decrease"]), rel=1e-6)
    assert float(weak["predicted_decrease"]) > float(ours["predicted_decrease"])
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000
    assert f"({(tmp_path / 'out' / 'report.html').stat().st_size / 1e6:.1f} MB)" in output


def test_the_shipped_trace_has_a_name(place, tmp_path):
    output = ddn("replay", "digits", place / "config.toml", "--splits", 0, "--out", tmp_path / "out")
    assert "3 steps from 0 to 170" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "nowhere", "config.toml"], "There is no trace in nowhere"),
        (["replay", "adam", "config.toml"], "index.json is missing. Record one with `ddn train --record`"),
        (["replay", "run", "adam.toml"], "is a config of the torch optimizer 'adam', which has no strategies"),
        (["replay", "run", "missing.toml"], "missing.toml"),
        (["replay", "run", "config.toml", "--out", "run"], "is not empty. Name a new folder"),
        (["spectrum", "config.toml", "--checkpoint", "nowhere"], "--checkpoint: there is no file"),
        (["spectrum", "config.toml", "--checkpoint", "config.toml"], "--checkpoint: "),
        (["spectrum", "config.toml", "--checkpoint", "tensor.pt"], "neither a checkpoint of ddn train nor a model's"),
        (["spectrum", "config.toml", "--checkpoint", "run", "--set", "problem.hidden=[9]"], "belongs to another model"),
        (["spectrum", "config.toml", "--checkpoint", "run", "--out", "run"], "is not empty. Name a new folder"),
    ],
)
def test_errors_say_what_to_do(place, monkeypatch, arguments, message):
    monkeypatch.chdir(place)
    torch.save(torch.ones(3), place / "tensor.pt")
    output = ddn(*arguments, status=1)
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["config", "adam"])
@pytest.mark.parametrize("data", ["train", "test"])
def test_the_spectrum_of_a_trained_model(place, tmp_path, name, data):
    run = place / ("run" if name == "config" else "adam")
    arguments = ["--checkpoint", run, "--data", data, "--samples", 20, "--out", tmp_path / "out"]
    output = ddn("spectrum", place / f"{name}.toml", *arguments)
    assert f"Curvature on 20 samples ({data})" in output
    assert "effective dimension" in output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"trace", "spectrum.png", "report.html"}
    (group,) = Trace.read(tmp_path / "out").steps[0].groups
    assert group.entry.samples == 20
    assert group.entry.outputs == 10


def test_the_spectrum_is_that_of_the_dense_matrix(place, tmp_path):
    """Of the same weights and samples, by autograd."""
    from ddn_core.config import load_config
    from ddn_core.testing import dense_ggn
    from ddn_core.training.problem import load_problem

    config = place / "config.toml"
    double = ["--set", "training.dtype='float64'"]
    ddn(
        "spectrum",
        config,
        "--checkpoint",
        place / "run",
        "--samples",
        6,
        "--data",
        "test",
        "--out",
        tmp_path / "out",
        *double,
    )
    parts = load_problem(load_config(config), "config")
    model = parts.model.double()
    model.load_state_dict(torch.load(place / "run" / "checkpoint.pt")["model"])
    X, y = next(iter(parts.test_batches))
    expected = torch.linalg.eigvalsh(dense_ggn(model, parts.loss_function, X[:6].double(), y[:6]))
    found = Trace.read(tmp_path / "out").steps[0].groups[0].directions
    torch.testing.assert_close(found.evals, expected[-len(found) :], rtol=1e-6, atol=1e-12)


def test_a_file_with_weights_alone_will_do(place, tmp_path):
    torch.save(torch.load(place / "run" / "checkpoint.pt")["model"], tmp_path / "weights.pt")
    ddn(
        "spectrum",
        place / "config.toml",
        "--checkpoint",
        tmp_path / "weights.pt",
        "--samples",
        5,
        "--out",
        tmp_path / "out",
    )
    index = json.loads((tmp_path / "out" / "trace" / "index.json").read_text())
    assert index["steps"][0]["groups"][0]["samples"] == 5
