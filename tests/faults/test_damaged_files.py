"""Damaged or foreign values in any file that is read: one error that names the file, and no traceback."""

from __future__ import annotations

import io
import json
import math
import random
import re
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load, save

from ddn_core.cli import trials
from ddn_core.errors import ArgumentError
from ddn_core.runs.checkpoints import load_checkpoint
from ddn_core.runs.record import RunRecord, read_events
from ddn_core.traces import Trace
from ddn_core.training import run_folder
from ddn_core.trials.comparison import ComparisonPlan
from ddn_core.trials.folder import TrialFolder, read_plan
from ddn_core.trials.process import Result
from ddn_core.trials.runner import Event
from ddn_core.trials.sweep import SweepPlan
from tests.commands import ddn
from tests.faults.damage import damaged_checkpoints, damaged_contents, damaged_tables, damaged_tensors, replaced
from tests.faults.folders import (
    FIRST_ORDER,
    finished_comparison,
    finished_run,
    finished_sweep,
    stopped_run,
    unfinished_comparison,
    unfinished_sweep,
)


class NoPicture:
    """Stands for the picture of a run, which takes longer than all the rest."""

    def savefig(self, *arguments, **options):
        """Draw nothing."""


def run_no_trial(folder, tasks, share, **options):
    """Stand for the processes of trials that damage has made necessary."""
    for task in tasks:
        yield Event(task)
        yield Event(task, Result(state="failed", exit_status=1, seconds=0, error="not started"))


@pytest.fixture(scope="module")
def quick():
    """Draw no pictures and start no processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "run_picture", lambda history: NoPicture())
        patch.setattr(trials, "run_trials", run_no_trial)
        yield


@pytest.fixture(scope="module")
def made(quick, tmp_path_factory):
    """A run, two stopped runs, a sweep and a comparison."""
    place = tmp_path_factory.mktemp("made")
    (place / "adam").mkdir()
    stopped_run(place / "adam", FIRST_ORDER)
    for make in (finished_run, stopped_run, finished_sweep, finished_comparison):
        make(place)
    return place


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A stopped run, and a sweep and a comparison without runs, which take less time to make."""
    place = tmp_path_factory.mktemp("begun")
    for make in (stopped_run, unfinished_sweep, unfinished_comparison):
        make(place)
    result = Result(state="finished", exit_status=0, metrics={"train_loss": 0.5}, seconds=1.0)
    (place / "sweep/trials/0000").mkdir(parents=True)
    (place / "sweep/trials/0000/result.json").write_text(result.model_dump_json())
    return place


@pytest.fixture(scope="module")
def adam(tmp_path_factory):
    """A stopped run of Adam."""
    return stopped_run(tmp_path_factory.mktemp("adam"), FIRST_ORDER)


def tables(path):
    """Yield damages of a file with a table in JSON."""
    content = path.read_bytes()
    yield from damaged_contents(content).items()
    yield from ((name, json.dumps(table).encode()) for name, table in damaged_tables(json.loads(content)))


def lines(path):
    """Yield damages of a file of metrics: of the file, and of the last line of each kind of event."""
    content = path.read_bytes()
    yield from damaged_contents(content).items()
    whole = content.splitlines()
    last = {json.loads(line)["event"]: number for number, line in enumerate(whole)}
    for number in last.values():
        for name, table in damaged_tables(json.loads(whole[number])):
            damaged = [*whole[:number], json.dumps(table).encode(), *whole[number + 1 :]]
            yield f"line {number + 1}: {name}", b"\n".join(damaged) + b"\n"


def tensors(path):
    """Yield damages of a file of tensors."""
    content = path.read_bytes()
    yield from damaged_contents(content).items()
    found = load(content)
    for name, tensor in found.items():
        for damage, other in damaged_tensors(tensor).items():
            yield f"{name} {damage}", save({**found, name: other.contiguous()})
        yield f"{name} is missing", save({key: value for key, value in found.items() if key != name})


def checkpoints(path):
    """Yield damages of a checkpoint."""
    yield from damaged_contents(path.read_bytes()).items()
    for name, make in damaged_checkpoints(torch.load(path, weights_only=True)):
        yield name, partial(saved, make)


def saved(make):
    """Return the content of a file with a checkpoint."""
    content = io.BytesIO()
    torch.save(make(), content)
    return content.getvalue()


REPORT = ("report", "{run}", "--out", "out/page.html")
REPLAY = ("replay", "{run}", "newton.toml", "--out", "out", "--splits", "1")
SPECTRUM = ("spectrum", "newton.toml", "--checkpoint", "{run}", "--out", "out", "--samples", "4")
RESUME = ("train", "--resume", "{run}")
BOTH = ("checkpoints/step-00000004.pt", "checkpoints/step-00000003.pt")
RESULT = "trials/adam/seed-0/result.json"
CASES = {
    "config of a run": ("run", ["config.resolved.json"], tables, [REPORT]),
    "metrics of a run": ("run", ["metrics.jsonl"], lines, [REPORT]),
    "checkpoint of a run": ("run", ["checkpoint.pt"], checkpoints, [REPORT, SPECTRUM]),
    "index of a trace": ("run", ["trace/index.json"], tables, [REPORT, REPLAY]),
    "tensors of a trace": ("run", ["trace/step-00000000.safetensors"], tensors, [REPORT, REPLAY]),
    "config to resume": ("stopped", ["config.resolved.json"], tables, [RESUME]),
    "metrics to resume": ("stopped", ["metrics.jsonl"], lines, [RESUME]),
    "checkpoints to resume": ("stopped", BOTH, checkpoints, [RESUME]),
    "checkpoints of Adam": ("adam/stopped", BOTH, checkpoints, [RESUME]),
    "trace to resume": ("stopped", ["trace/index.json"], tables, [RESUME]),
    "plan of a sweep": ("sweep", ["sweep.json"], tables, [("sweep", "--resume", "{run}")]),
    "result in a sweep": ("sweep", ["trials/0000/result.json"], tables, [("sweep", "--resume", "{run}")]),
    "plan of a comparison": ("comparison", ["comparison.json"], tables, [("compare", "--resume", "{run}")]),
    "result in a comparison": ("comparison", [RESULT], tables, [("compare", "--resume", "{run}")]),
    "metrics in a comparison": (
        *("comparison", ["runs/adam/seed-0/metrics.jsonl"], lines),
        [("compare", "--resume", "{run}")],
    ),
    "config in a comparison": (
        *("comparison", ["runs/adam/seed-0/config.resolved.json"], tables),
        [("compare", "--resume", "{run}")],
    ),
}
ELSEWHERE = ("--metric", "failed to load", "belongs to another model", "the loss is", "raised")
"""Words of errors about values that are valid in their file: no trial has the metric, the problem cannot be made."""


def check(place, made, case, damages):
    folder, files, _, commands = CASES[case]
    shutil.copy(made / "newton.toml", place)
    for name, content in damages:
        for command in commands:
            for path in (place / "run", place / "out"):
                shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(made / folder, place / "run")
            for file in files:
                (place / "run" / file).write_bytes(content() if callable(content) else content)
            try:
                result = ddn(*(word.format(run=place / "run") for word in command), cwd=place)
            except Exception as error:
                raise AssertionError(f"{name}: {command[0]} raised {type(error).__name__}: {error}") from error
            errors = result.stderr
            assert result.returncode in (0, 1, 3), f"{name}: {errors}"
            if result.returncode == 1 and errors:
                assert errors.startswith("error: "), f"{name}: {errors}"
                named = any(file.rpartition("/")[2] in errors for file in files)
                assert named or any(words in errors for words in ELSEWHERE), f"{name}: {errors}"
                assert len(errors) < 5000, f"{name}: {errors}"
            elif result.returncode == 1:
                assert "failed" in result.stdout, f"{name}: {result.stdout}"


def read_results(folder):
    """Return the results of a sweep."""
    return TrialFolder(folder, None).results(read_plan(folder, SweepPlan))


def read_trace(folder):
    """Return a trace, with all its tensors."""
    return [step.groups for step in Trace.read(folder)]


READERS = {
    "metrics": ("stopped", "metrics.jsonl", lines, lambda folder: read_events(folder / "metrics.jsonl")),
    "config": ("stopped", "config.resolved.json", tables, RunRecord.read),
    "checkpoint": ("stopped", BOTH[0], checkpoints, lambda folder: load_checkpoint(folder / BOTH[0])),
    "index": ("stopped", "trace/index.json", tables, read_trace),
    "tensors": ("stopped", "trace/step-00000000.safetensors", tensors, read_trace),
    "sweep": ("sweep", "sweep.json", tables, lambda folder: read_plan(folder, SweepPlan)),
    "comparison": ("comparison", "comparison.json", tables, lambda folder: read_plan(folder, ComparisonPlan)),
    "result": ("sweep", "trials/0000/result.json", tables, read_results),
}
MOST = 12
"""Number of damages of values in a file that a test tries, besides all those of its whole content."""


def chosen(damages, name):
    """Return the damages that a test tries."""
    found, whole = list(damages), len(damaged_contents(b"content"))
    return [*found[:whole], *random.Random(name).sample(found[whole:], min(MOST, len(found) - whole))]


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_is_one_error_that_names_it(begun, tmp_path, name):
    folder, file, damages, read = READERS[name]
    shutil.copytree(begun / folder, tmp_path / folder)
    read(tmp_path / folder)
    refused = 0
    for damage, content in chosen(damages(begun / folder / file), name):
        (tmp_path / folder / file).write_bytes(content() if callable(content) else content)
        message = None
        try:
            read(tmp_path / folder)
        except ArgumentError as error:
            message = str(error)
        except Exception as error:
            raise AssertionError(f"{damage}: {type(error).__name__}: {error}") from error
        if message is not None:
            refused += 1
            assert file.rpartition("/")[2] in message or "holds no step" in message, f"{damage}: {message}"
            assert len(message.splitlines()) == 1, f"{damage}: {message}"
            assert len(message) < 1000, f"{damage}: {message}"
    assert refused >= 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "word"}, r"line 2: is not an event of a run: step.loss: Input should be a valid number, not 'word'"),
        ({"epoch": None}, r"line 2: is not an event of a run: step.epoch: Input should be a valid integer, not null"),
        ({"step": 2**100}, r"line 2: .*less than 9223372036854775808, not a number of more than 64 bits"),
        ({"event": "other"}, r"line 2: .*Input should be a table whose `event` is step, evaluation, epoch or end"),
        ({"lr": "x" * 100}, rf"line 2: is not an event of a run: step.lr: .*, not '{'x' * 58}…"),
        ({"lr": []}, None),
        ({"loss": None, "later": "field"}, None),
    ],
)
def test_metrics_are_read_by_schema(tmp_path, change, message):
    step = {"event": "step", "loss": 1.0, "step": 0, "epoch": 1, "lr": [0.1], "seconds": 0.1}
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(step)}\n{json.dumps({**step, **change})}\n")
    if message is None:
        second = read_events(path)[0][1]
        assert math.isnan(second.loss) == (change.get("loss", 0) is None)
        return
    with pytest.raises(ArgumentError, match=message):
        read_events(path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("model", "0.weight"), torch.zeros(2, 2), r"model.0.weight has the shape \[2, 2\], not \[3, 1\]"),
        (("model", "0.weight"), torch.zeros(3, 1).long(), r"model.0.weight has the type torch.int64"),
        (("model", "0.weight"), "word", r"model.0.weight is not a tensor"),
        (("model", "other"), torch.zeros(1), r"model.'other' is unknown"),
        (("optimizer", "param_groups", 0, "lr"), "word", r"optimizer.param_groups.0.lr is not a number"),
        (("optimizer", "param_groups", 0, "betas", 0), math.inf, r"betas.0 is not a number"),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(()), r"optimizer.state.0.exp_avg has the shape \[\], not"),
        (
            ("optimizer", "state", 0, "exp_avg"),
            None,
            r"optimizer.state.1 has the values 'exp_avg, exp_avg_sq, step', which differ from those of other",
        ),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(3, 1).long(), r"exp_avg has the type torch.int64"),
        (("optimizer", "state", 9), {}, r"optimizer.state.9 is not a state of a parameter"),
        (("progress", "losses"), ["word"], r"progress.losses.0: Input should be a valid number"),
        (("ending", "watch", "first"), ["word"], r"ending.watch.first.0: Input should be a valid number, not 'word'"),
        (("ending", "stopping", "means"), {}, r"ending.stopping.means has other names"),
        (("random", "now", "torch"), torch.zeros(3), r"belongs to another model or optimizer"),
        (("config", "provenance"), "word", r"config: Input should be a config whose provenance is a table"),
        (("config", "problem", "samples"), torch.zeros(2), r"config"),
        (("spectra",), {0: [torch.zeros(2, 2)]}, r"spectra.0.0: Input should be a list of eigenvalues"),
    ],
)
def test_a_checkpoint_has_the_form_of_the_training(adam, tmp_path, path, value, message):
    run = shutil.copytree(adam, tmp_path / "run")
    for file in BOTH:
        torch.save(replaced(torch.load(run / file, weights_only=True), path, value), run / file)
    result = ddn("train", "--resume", run)
    assert result.returncode == 1
    assert re.search(message, result.stderr), result.stderr
    assert "step-00000004.pt" in result.stderr


def test_a_report_says_that_a_checkpoint_is_damaged(adam, tmp_path):
    run = shutil.copytree(adam, tmp_path / "run")
    (run / "checkpoint.pt").write_bytes(b"damaged")
    assert ddn("report", run).returncode == 0
    assert "checkpoint.pt: is truncated, or no checkpoint" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_commands_that_read_a_damaged_file(made, tmp_path, case):
    folder, files, damages, _ = CASES[case]
    check(tmp_path, made, case, chosen(damages(made / folder / files[0]), case))
