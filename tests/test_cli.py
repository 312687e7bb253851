"""The `ddn` command: a run in a process of its own, and the rest in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.commands import ddn, ddn_process

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "docs" / "examples" / "digits.toml"
SMALL = ["--set", "problem.batch_size=32", "--set", "problem.hidden=[16]", "--set", 'groups.0.params=["0.*"]']


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished short run."""
    folder = tmp_path_factory.mktemp("train") / "run"
    result = ddn_process("train", DIGITS, "--out", folder, "--set", "training.epochs=2", *SMALL)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return folder, result.stdout


@pytest.mark.xdist_group("train")
def test_train_shows_progress_and_a_summary(run):
    folder, output = run
    for word in ("epoch", "loss", "test accuracy", "step norm", "directions", "damping"):
        assert word in output
    assert "Run finished" in output
    assert str(folder) in output.replace("\n", "")


@pytest.mark.xdist_group("train")
def test_train_writes_a_run_folder(run):
    folder, _ = run
    assert {path.name for path in folder.iterdir()} == {
        "config.resolved.json",
        "metrics.jsonl",
        "checkpoint.pt",
        "run.png",
    }
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "step"]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["step"] for event in steps] == list(range(len(steps)))
    assert len(epochs) == 2
    assert epochs[-1]["test_metrics"]["accuracy"] > 0.7
    assert epochs[-1]["train_loss"] < steps[0]["loss"]
    for name in ("loss", "step_norm", "directions", "damping_min", "damping_max", "predicted_decrease", "seconds"):
        assert all(isinstance(event[name], int | float) for event in steps), name
    assert (folder / "run.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    resolved = json.loads((folder / "config.resolved.json").read_text())
    assert resolved["problem"]["hidden"] == [16]
    assert resolved["provenance"]["plugins"][0]["distribution"] == "ddn-core"


@pytest.mark.xdist_group("train")
def test_checkpoint_is_plain_data_and_holds_the_trained_model(run):
    from ddn_core.config import load_config
    from ddn_core.optim import DirectionalDampedNewton

    folder, _ = run
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    config = load_config(folder / "config.resolved.json")
    torch.manual_seed(config.training.seed)
    parts = config.problem.load()
    parts.model.load_state_dict(checkpoint["model"])
    DirectionalDampedNewton(parts.model.named_parameters(), config).load_state_dict(checkpoint["optimizer"])
    inputs, targets = next(iter(parts.test_batches))
    with torch.no_grad():
        accuracy = float((parts.model(inputs).argmax(1) == targets).float().mean())
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert accuracy == pytest.approx(epochs[-1]["test_metrics"]["accuracy"], abs=1e-6)
    assert checkpoint["config"]["provenance"]["ddn"]
    assert checkpoint["step"] == epochs[-1]["step"]


@pytest.mark.xdist_group("train")
def test_a_resolved_config_repeats_the_run(run, tmp_path):
    folder, _ = run
    result = ddn("train", folder / "config.resolved.json", "--out", tmp_path / "again")
    assert result.returncode == 0, result.stderr

    def values(path):
        events = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        return [
            {name: value for name, value in event.items() if name not in ("seconds", "step_seconds")}
            for event in events
        ]

    assert values(tmp_path / "again") == values(folder)


@pytest.mark.xdist_group("train")
def test_a_run_folder_is_not_overwritten(run):
    folder, _ = run
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = ddn("train", DIGITS, "--out", folder)
    assert result.returncode == 1
    assert "is not empty. Name a new folder" in result.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_the_cnn_trains_with_monte_carlo_samples(tmp_path):
    (tmp_path / "cnn.toml").write_text(
        """
        problem = { kind = "digits-cnn" }
        training = { epochs = 6, dtype = "float64" }
        curvature = { kind = "ggn-mc", mc_samples = 2, seed = 1 }
        [[groups]]
        params = ["*.weight"]
        criterion = { kind = "any-of", of = [{ kind = "top-k", k = 20 }, { kind = "threshold", value = 0.1 }] }
        damping = { kind = "sum", of = [{ kind = "constant", value = 1.0 }, { kind = "relative", of = "mean" }] }
        lr = 0.5
        [[groups]]
        params = ["*"]
        criterion = { kind = "all" }
        damping = { kind = "constant", value = 1.0 }
        lr = 0.5
        """
    )
    result = ddn("train", "cnn.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("cnn-")
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test_metrics"]["accuracy"] > 0.85


def test_check_says_which_parameters_each_group_takes():
    result = ddn("check", DIGITS, "--set", 'groups.1.params=["4.*", "2.bias", "*"]')
    assert result.returncode == 0, result.stderr
    for text in ("0.weight, 0.bias, 2.weight, 2.bias", "4.weight, 4.bias", "relative-threshold(ratio=0.001)"):
        assert text in result.stdout
    assert "maximum(of=[constant(value=0.05), relative(fraction=0.1)])" in result.stdout
    assert "2.bias matches groups 0, 1; it belongs to group 0" in result.stdout


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['groups.1.params=["4.weight"]'], "groups: no group matches 4.bias"),
        (['groups.0.params=["0.*", "9.*"]'], "groups.0.params.1: '9.*' matches no parameter"),
        (['groups.0.params=["*"]'], "groups.1.params: all parameters that these globs match belong to earlier groups"),
        (
            ['groups.0.criterion.kind="topk"'],
            "groups.0.criterion.kind: no criterion named 'topk'. Did you mean 'top-k'?",
        ),
        (["problem.batch_size=10000"], "failed to load: ValueError: batch_size is 10000"),
        (["nonsense"], "--set: 'nonsense' is not an assignment"),
    ],
)
@pytest.mark.parametrize("command", ["check", "train"])
def test_errors_are_told_without_a_traceback(command, overrides, message, tmp_path):
    options = [item for override in overrides for item in ("--set", override)]
    result = ddn(command, DIGITS, *options, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []  # no run folder is left


def test_a_process_tells_an_error_without_a_traceback():
    result = ddn_process("check", DIGITS, "--set", "groups.0.lr=-1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: digits.toml: 1 error\n  groups.0.lr: ")
    assert "Traceback" not in result.stderr


def test_a_config_without_a_problem(tmp_path):
    (tmp_path / "c.toml").write_text(
        '[[groups]]\nparams=["*"]\ncriterion={kind="all"}\ndamping={kind="constant", value=2}\n'
    )
    result = ddn("train", tmp_path / "c.toml")
    assert result.returncode == 1
    assert "problem: is missing; add a [problem] table" in result.stderr
    result = ddn("check", tmp_path / "c.toml")  # it is for an optimizer of the user's own
    assert result.returncode == 0
    assert "constant(value=2.0)" in result.stdout
    assert "There is no [problem], so the parameters of the groups depend on your own model." in result.stdout


def test_a_device_that_is_not_there(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    result = ddn("train", DIGITS, "--set", 'training.device="cuda"', "--out", tmp_path / "run")
    assert result.returncode == 1
    assert "training.device: 'cuda'" in result.stderr
    assert "Traceback" not in result.stderr


def test_help():
    result = ddn("--help")
    assert result.returncode == 0
    for command in ("train", "check", "plugins"):
        assert command in result.stdout


def test_without_the_extra_the_command_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None\nfrom ddn_core.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "pip install 'ddn-core[train]'" in result.stderr


def test_a_run_that_fails_at_its_first_step_leaves_nothing_behind(tmp_path):
    result = ddn("train", DIGITS, "--out", tmp_path / "run", "--set", "curvature.subsampling_ggn=[999]")
    assert result.returncode == 1
    assert "subsampling_ggn has index 999, but the batch has 128 samples" in result.stderr
    assert not (tmp_path / "run").exists()


def test_odd_names_of_run_folders_are_only_text(tmp_path):
    result = ddn("train", DIGITS, "--out", "out[bold][", "--set", "training.epochs=1", *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "out[bold][" in result.stdout
    assert (tmp_path / "out[bold][" / "run.png").exists()


def test_groups_that_do_not_fit_are_one_error_for_train_too():
    result = ddn("train", DIGITS, "--set", 'groups.1.params=["4.weight"]')
    assert result.stderr.startswith("error: digits.toml: 1 error\n  groups: no group matches 4.bias. Add a last group")


def commands(command, path=()):
    """Yield every command with its name, those of groups too."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def test_help_is_printed_as_it_is_written():
    """Rich takes words in square brackets for markup and swallows them, unless they are escaped."""
    import typer
    from typer.testing import CliRunner

    from ddn_core.cli.app import app

    lost = []
    runner = CliRunner(env={"COLUMNS": "500", "NO_COLOR": "1"})
    for path, command in commands(typer.main.get_command(app)):
        printed = " ".join(runner.invoke(app, [*path, "--help"]).output.split())
        texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
        written = [" ".join(text.replace("\\[", "[").split()) for text in texts if text]
        lost += [f"ddn {' '.join(path)}: {text}" for text in written if text not in printed]
        assert "......" not in printed
        assert "...]..." not in printed
    assert lost == []
    assert "The table [record] of the config" in " ".join(runner.invoke(app, ["train", "--help"]).output.split())
