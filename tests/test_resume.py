"""Runs that are cut off go on, and end with the very numbers of a run that was not: real processes, really killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch

from ddn_core.errors import ArgumentError
from ddn_core.runs.checkpoints import CheckpointFolder, load_checkpoint, save_checkpoint
from ddn_core.training.randomness import generators_in, random_state, set_random_state
from tests.commands import PausedRun, ddn

CONFIG = """
[problem]
kind = "digits-mlp"
hidden = [12]
batch_size = 64

[training]
epochs = 3
checkpoint_seconds = 0.02
evaluate_every = 7
evaluate_training = true
scheduler = { kind = "exponential", gamma = 0.97, every = "step" }

[curvature]
kind = "ggn-mc" # without a seed: from torch's own generator

[record]
steps = [0, 3, 20, 45]
megabytes = 6

[step]
on_increase = "shorten"

[fallback]
kind = "adamw"
lr = 0.01

[[groups]]
params = ["0.*"]
criterion = { kind = "random", k = 20 }
damping = { kind = "levenberg-marquardt" }
lr = 0.5
momentum = 0.5
memory = 0.3
every = 3

[[groups]]
params = ["2.weight"]
criterion = { kind = "all" }
damping = { kind = "trust-region", radius = 1.0 }
lr = 0.5
weight_decay = 1e-4
"""
TIMES = ("seconds", "step_seconds")

pytestmark = pytest.mark.xdist_group("forked")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("resume") / "c.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def whole_run(config):
    """A run that was not interrupted, and the number of times that it accessed its files."""
    folder = config.parent / "whole"
    run = PausedRun([config, "--out", folder], config.parent / "output", str(folder), None)
    assert run.process.exitcode == 0, (config.parent / "output").read_text()
    assert "Run finished" in (config.parent / "output").read_text()
    return folder, run.accesses


@pytest.fixture(scope="module")
def whole(whole_run):
    return whole_run[0]


def metrics(folder):
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in event.items() if name not in TIMES} for event in events]


def without_times(place):
    if isinstance(place, dict):
        return {key: without_times(value) for key, value in place.items() if key not in (*TIMES, "metrics_bytes")}
    return [without_times(item) for item in place] if isinstance(place, list | tuple) else place


def assert_same(one, other, path="checkpoint"):
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, path
        assert torch.equal(one, other), path
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key, value in one.items():
            assert_same(value, other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for index, value in enumerate(one):
            assert_same(value, other[index], f"{path}.{index}")
    else:
        assert one == other or one != one, path


def assert_ended_alike(folder, whole):
    assert metrics(folder) == metrics(whole)
    states = [without_times(load_checkpoint(run / "checkpoint.pt")) for run in (folder, whole)]
    assert_same(*states)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    traces = [{path.name: path.read_bytes() for path in (run / "trace").iterdir()} for run in (folder, whole)]
    assert traces[0] == traces[1]
    assert len(traces[0]) == 5


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 10))])
def test_a_run_that_is_killed_twice_ends_as_one_that_is_not(config, whole_run, tmp_path, number):
    """It is killed before an access to one of its files, resumed, killed before another one, and resumed."""
    whole, accesses = whole_run
    assert accesses > 100
    random_moments = random.Random(number)
    folder, output = tmp_path / "run", tmp_path / "output"
    arguments = [config, "--out", folder]
    for _ in range(2):
        run = PausedRun(arguments, output, str(folder), random_moments.randint(1, accesses // 2))
        assert run.paused, output.read_text()
        run.kill()
        if (folder / "config.resolved.json").exists():
            arguments = ["--resume", folder]
    run = PausedRun(arguments, output, str(folder), None)
    assert run.process.exitcode == 0, output.read_text()
    assert_ended_alike(folder, whole)


@pytest.mark.slow
def test_a_run_may_be_killed_before_any_access_to_its_files(tmp_path):
    """Then it can be begun or resumed, or it is finished."""
    (tmp_path / "c.toml").write_text(
        """
        problem = { kind = "regression-1d", samples = 16, hidden = [4] }
        training = { epochs = 3, checkpoint_seconds = 0.01 }
        record = { steps = [0, 2] }
        groups = [{ params = ["*"], criterion = { kind = "top-k", k = 3 }, damping = { kind = "constant" }, lr = 0.1 }]
        """
    )
    whole, folder, output = tmp_path / "whole", tmp_path / "run", tmp_path / "output"
    accesses = PausedRun([tmp_path / "c.toml", "--out", whole], output, str(whole), None).accesses
    assert accesses > 20, output.read_text()
    for number in range(1, accesses + 1):
        run = PausedRun([tmp_path / "c.toml", "--out", folder], output, str(folder), number)
        assert run.paused, output.read_text()
        run.kill()
        begun = (folder / "config.resolved.json").exists()
        arguments = ["--resume", folder] if begun else [tmp_path / "c.toml", "--out", folder]
        run = PausedRun(arguments, output, str(folder), None)
        is_finished = "is finished. There is nothing to resume." in output.read_text()
        assert run.process.exitcode == 0 or is_finished, (number, output.read_text())
        assert metrics(folder) == metrics(whole), number
        assert {path.name for path in folder.rglob("*")} == {path.name for path in whole.rglob("*")}, number
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("file", "count", "there", "status"),
    [
        ("checkpoint.pt", 2, set(), 0),
        pytest.param("run.png", 1, {"checkpoint.pt"}, 1, marks=pytest.mark.slow),
        pytest.param("run.png", 2, {"checkpoint.pt"}, 1, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_while_it_finishes_ends_as_one_that_is_not(
    config, whole, tmp_path, file, count, there, status
):
    """The final checkpoint is there before the picture, and a run that has it is finished."""
    folder, output = tmp_path / "run", tmp_path / "output"
    run = PausedRun([config, "--out", folder], output, file, count)
    assert run.paused, output.read_text()
    run.kill()
    assert {path.name for path in folder.iterdir()} & {"checkpoint.pt", "run.png"} == there
    result = ddn("train", "--resume", folder)
    assert result.returncode == status, result.stderr
    assert ("is finished. There is nothing to resume" in result.stderr) == (status == 1)
    assert_ended_alike(folder, whole)


@pytest.fixture(scope="module")
def killed(whole):
    """A run folder as a kill leaves it, with two checkpoints, one step apart; made from the finished run's config."""
    folder = whole.parent / "killed"
    arguments = [whole / "config.resolved.json", "--out", folder, "--set", "training.checkpoint_seconds=0"]
    run = PausedRun(arguments, whole.parent / "output", str(folder / "checkpoints" / ".step-00000020"), 1)
    assert run.paused, (whole.parent / "output").read_text()
    run.kill()
    assert [path.name for path in CheckpointFolder(folder).paths()] == ["step-00000019.pt", "step-00000018.pt"]
    assert (folder / "metrics.jsonl").stat().st_size > 3000
    return folder


@pytest.fixture
def interrupted(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / "run")


def assert_same_numbers(folder, whole):
    """The config differs in how often checkpoints are written; nothing else does."""
    assert metrics(folder) == metrics(whole)
    states = [load_checkpoint(run / "checkpoint.pt")["model"] for run in (folder, whole)]
    assert_same(*states)


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def damage_empty(path):
    path.write_bytes(b"")


def damage_foreign(path):
    torch.save({"model": {}}, path)


def damage_code(path):
    torch.save({"format": "ddn checkpoint 1", "model": Evil()}, path)


class Evil:
    """Would run code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("code-was-run"),))


DAMAGES = {
    "cut off": (damage_cut, "is truncated, or no checkpoint"),
    "a bit flipped": (damage_flip, "is damaged: the checksum|is truncated, or no checkpoint"),
    "empty": (damage_empty, "is truncated, or no checkpoint"),
    "foreign": (damage_foreign, "is not a checkpoint of `ddn train`"),
    "code": (damage_code, "is truncated, or no checkpoint"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_told_clearly_and_runs_no_code(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = {"model": {"w": torch.ones(1000)}, "optimizer": {}, "config": {}, "progress": {}, "random": {}}
    save_checkpoint(tmp_path / "c.pt", whole)
    assert torch.equal(load_checkpoint(tmp_path / "c.pt")["model"]["w"], torch.ones(1000))
    damage, message = DAMAGES[name]
    damage(tmp_path / "c.pt")
    with pytest.raises(ArgumentError, match=message):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "code-was-run").exists()


def test_the_checkpoint_before_a_damaged_one_is_used(interrupted, whole):
    newest = CheckpointFolder(interrupted).paths()[0]
    damage_cut(newest)
    result = ddn("train", "--resume", interrupted)
    assert result.returncode == 0, result.stderr
    assert f"note: {newest}: is truncated" in result.stdout
    assert_same_numbers(interrupted, whole)


def test_errors_of_resume(interrupted, whole, tmp_path):
    def refused(*arguments):
        result = ddn("train", *arguments)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        return result.stderr

    assert f"The run in {whole} is finished" in refused("--resume", whole)
    assert "the folder does not exist" in refused("--resume", tmp_path / "nothing")
    assert "config.resolved.json is missing" in refused("--resume", tmp_path)
    assert "Leave out --out, --set and --record" in refused("--resume", whole, "--set", "training.epochs=9")
    assert "Name a CONFIG, or a run folder" in refused()
    assert f"ddn train --resume {interrupted}" in refused(whole / "config.resolved.json", "--out", interrupted)
    before = (interrupted / "metrics.jsonl").read_bytes()
    (interrupted / "metrics.jsonl").write_bytes(before[:100])
    assert "metrics.jsonl was changed" in refused("--resume", interrupted)
    (interrupted / "metrics.jsonl").write_bytes(before)
    for path in CheckpointFolder(interrupted).paths():
        state = load_checkpoint(path)
        state["config"]["training"]["seed"] = 5
        save_checkpoint(path, state)
    assert "has another config than config.resolved.json" in refused("--resume", interrupted)
    for path in CheckpointFolder(interrupted).paths():
        damage_empty(path)
    assert "no checkpoint can be used" in refused("--resume", interrupted)
    assert (interrupted / "metrics.jsonl").read_bytes() == before


def test_an_interrupt_says_how_to_go_on(whole, tmp_path):
    folder = tmp_path / "run"
    arguments = [whole / "config.resolved.json", "--out", folder, "--set", "training.epochs=500"]
    run = PausedRun(arguments, tmp_path / "output", str(folder / "checkpoints"), 1)
    assert run.paused
    os.kill(run.process.pid, signal.SIGINT)
    assert run.go_on() == 130
    assert f"ddn train --resume {folder}" in (tmp_path / "output").read_text().replace("\n", "")
    assert "Traceback" not in (tmp_path / "output").read_text()


def test_every_generator_goes_on():
    import numpy

    class Loader:
        def __init__(self):
            self.sampler = type("Sampler", (), {})()
            self.sampler.generator = torch.Generator().manual_seed(3)
            self.own = self.sampler.generator  # the same one twice
            self.dataset = torch.ones(3)

    loader = Loader()
    assert len(list(generators_in(loader))) == 1

    def draw():
        return (
            float(torch.rand(())),
            random.random(),
            random.gauss(0, 1),
            numpy.random.rand(),
            float(torch.rand((), generator=loader.own)),
        )

    draw()
    state = random_state(loader)
    expected = draw(), draw()
    draw()
    set_random_state(state, loader)
    assert (draw(), draw()) == expected


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "lbfgs"])
def test_baselines_run_through_the_same_loop(kind, tmp_path):
    options = {"sgd": ", lr = 0.5, momentum = 0.9", "lbfgs": ", max_iter = 4"}.get(kind, ", lr = 0.01")
    (tmp_path / "c.toml").write_text(
        f"""
        problem = {{ kind = "digits-mlp", hidden = [16] }}
        training = {{ epochs = 3 }}
        optimizer = {{ kind = "{kind}"{options} }}
        """
    )
    result = ddn("train", "c.toml", "--out", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    epochs = [event for event in metrics(tmp_path / "run") if event["event"] == "epoch"]
    assert epochs[-1]["train_loss"] < 0.8 * epochs[0]["train_loss"]
    assert (tmp_path / "run" / "run.png").exists()
    again = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert again["optimizer"]["state"]


def test_a_baseline_is_torch_bit_by_bit(tmp_path):
    """Without hooks, and with the batches and the initialization of any other optimizer."""
    from ddn_core.config import load_config

    (tmp_path / "c.toml").write_text(
        'problem = { kind = "digits-mlp", hidden = [8] }\ntraining = { epochs = 2, seed = 3 }\n'
        'optimizer = { kind = "adam", lr = 0.01 }\n'
    )
    assert ddn("train", "c.toml", "--out", "run", cwd=tmp_path).returncode == 0
    torch.manual_seed(3)
    parts = load_config(tmp_path / "c.toml").problem.load()
    optimizer = torch.optim.Adam(parts.model.parameters(), lr=0.01)
    for _ in range(2):
        for X, y in parts.train_batches:
            optimizer.zero_grad()
            parts.loss_function(parts.model(X), y).backward()
            optimizer.step()
    trained = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["model"]
    assert_same(dict(trained), dict(parts.model.state_dict()))


class Noisy:
    """Batches that draw random numbers for each of them, from torch's generator and from one of their own."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(1)

    def __iter__(self):
        for _ in range(5):
            X = torch.rand(8, 64) + torch.rand(8, 64, generator=self.generator)
            yield X, torch.randint(0, 10, (8,))

    def __len__(self):
        return 5


@pytest.mark.parametrize("cut", [1, 2, 4, 5, 6, 8])
def test_batches_that_draw_random_numbers_go_on(cut):
    """With dropout in the model, and a test loader that draws too: cut after some events, and resumed."""
    from torch import nn

    from ddn_core.config import parse_config
    from ddn_core.plugins.problem import ProblemParts
    from ddn_core.training.loop import Training
    from ddn_core.training.stepping import stepper_of

    group = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant"}, "lr": 0.1}
    config = parse_config({"problem": {"kind": "digits-mlp"}, "training": {"epochs": 2}, "groups": [group]})

    def training():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 10))
        parts = ProblemParts(model, nn.CrossEntropyLoss(), Noisy(), Noisy())
        return Training(config, parts, stepper_of(config, parts, "c"))

    def told(events):
        return [(type(e).__name__, getattr(e, "loss", None), getattr(e, "test_loss", None)) for e in events]

    whole = told(training().events())
    first = training()
    events, seen, state = first.events(), [], None
    for event in events:
        seen.append(event)
        if len(seen) >= cut and first.is_resumable:
            state = first.state_dict({})
            break
    torch.rand(7)
    second = training()
    second.load_state_dict(state)
    assert told(seen) + told(second.events()) == whole
