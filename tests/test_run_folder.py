"""A run folder has one writer; nothing that was written is lost, and nothing of the user's is removed."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil

import pytest
import torch
from matplotlib.figure import Figure

from ddn_core import locks
from ddn_core.errors import ArgumentError, DdnError
from ddn_core.runs import EndEvent, RunRecord, StepEvent
from ddn_core.runs.checkpoints import CheckpointFolder, load_checkpoint, save_checkpoint
from ddn_core.training import run_folder, train
from ddn_core.training.metrics import MetricsFile
from tests.commands import ddn

GROUP = {"params": ["*"], "criterion": {"kind": "top-k", "k": 5}, "damping": {"kind": "constant"}, "lr": 0.1}
TABLE = {
    "problem": {"kind": "regression-1d", "samples": 16},
    "training": {"epochs": 3, "checkpoint_seconds": 0.0},
    "optimizer": {"kind": "sgd", "lr": 0.01, "momentum": 0.9},
}
STEPS = 3
"""Number of steps of the run of this config, each of which is an epoch."""
OURS = {**{name: table for name, table in TABLE.items() if name != "optimizer"}, "groups": [GROUP]}
"""The config with our optimizer, whose curvature can be recorded."""


@pytest.fixture(autouse=True)
def plain_picture(monkeypatch):
    """Draw an empty picture, which takes less time."""
    monkeypatch.setattr(run_folder, "run_picture", lambda history: Figure(figsize=(1, 1)))


def names(folder):
    return {path.name for path in folder.iterdir()}


def fail(*_):
    raise DdnError("the first cause")


@pytest.fixture(scope="module")
def once_cut_off(tmp_path_factory):
    """A run that was cut off after its second epoch."""
    folder, seen = tmp_path_factory.mktemp("cut-off") / "run", []
    assert not train(TABLE, folder, on_event=seen.append, should_stop=lambda: len(seen) == 4).finished
    return folder


@pytest.fixture
def cut_off(once_cut_off, tmp_path):
    return shutil.copytree(once_cut_off, tmp_path / "run")


# One writer


def test_a_second_process_is_refused_and_harms_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0)
    folder, seen = tmp_path / "run", []

    def intrude(event):
        seen.append(event)
        if len(seen) == 2:
            with pytest.raises(ArgumentError, match=r"Another process is writing the run in .*run\. Wait until it"):
                train(resume=folder)
            with pytest.raises(ArgumentError, match="is not empty"):
                train(TABLE, folder)

    assert train(TABLE, folder, on_event=intrude).finished
    assert len(RunRecord.read(folder).steps) == STEPS
    assert names(folder) == {"config.resolved.json", "metrics.jsonl", "checkpoint.pt", "run.png"}


@pytest.mark.parametrize(
    ("still_runs", "message"),
    [(True, r"Another process .* Wait until it has ended or name a new folder\."), (False, "run is not empty")],
)
def test_two_processes_that_begin_at_once(tmp_path, monkeypatch, still_runs, message):
    """The second one comes between the check of the first and its lock."""
    monkeypatch.setattr(locks, "PATIENCE", 0)
    begun = []
    create = run_folder.RunFolder._create

    def interrupted(self):
        create(self)
        if not begun:
            begun.append(None)
            begun.append(run_folder.RunFolder.begin(self.path, {"seed": 2}))
            if not still_runs:
                begun[1].close()

    monkeypatch.setattr(run_folder.RunFolder, "_create", interrupted)
    with pytest.raises(ArgumentError, match=message):
        run_folder.RunFolder.begin(tmp_path / "run", {"seed": 1})
    begun[1].close()
    assert json.loads((tmp_path / "run" / "config.resolved.json").read_text()) == {"seed": 2}
    assert names(tmp_path / "run") == {"config.resolved.json"}


def test_a_run_that_cannot_be_resumed_is_not_held(cut_off):
    (cut_off / "metrics.jsonl").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(ArgumentError, match=r"metrics\.jsonl was changed"):
            train(resume=cut_off)
    assert "lock" not in names(cut_off)


# Writes are whole


@contextlib.contextmanager
def files_of_at_most(size):
    """Limit the size of files: the write that exceeds it is cut off, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def step(number):
    return StepEvent(loss=1.0, step=number, epoch=1, lr=(0.1, float("inf")), seconds=0.5)


def test_a_line_is_written_whole_or_not_at_all(tmp_path):
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append(step(0))
    whole = metrics.sync()
    with (
        files_of_at_most(whole + 20),
        pytest.raises(ArgumentError, match=r"metrics\.jsonl cannot be written: File too"),
    ):
        metrics.append(step(1))
    assert metrics.sync() == whole
    metrics.append(EndEvent("loss", "low", 2))
    metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["step", "end"]
    assert lines[0]["lr"] == [0.1, None]


@pytest.mark.parametrize(
    ("seconds", "size", "file"), [(1000.0, 2000, "metrics.jsonl"), (0.0, 3000, "checkpoints/step-00000001.pt")]
)
def test_a_run_whose_files_cannot_be_written_goes_on_later(tmp_path, seconds, size, file):
    config = {**TABLE, "training": {"epochs": 10, "checkpoint_seconds": seconds}}
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(ArgumentError, match=f"run/{file} cannot be written: File too large"))
        train(config, tmp_path / "run", on_start=lambda _: stack.enter_context(files_of_at_most(size)))
    assert not [*(tmp_path / "run").rglob(".*")]  # nothing half written
    assert train(resume=tmp_path / "run").finished
    assert [one.step for one in RunRecord.read(tmp_path / "run").steps] == list(range(10))


@pytest.mark.parametrize("torn", ['{"event": "st', ""])
def test_a_torn_last_line_is_reported_and_cut(cut_off, torn):
    with (cut_off / "metrics.jsonl").open("a") as file:
        file.write(f'{{"event": "later"}}\n{torn}')
    starts = []
    assert train(resume=cut_off, on_start=starts.append).finished
    notes = [f"{cut_off / 'metrics.jsonl'} ended in a part of a line, which was removed"] if torn else []
    assert list(starts[0].notes) == notes
    assert [one.step for one in RunRecord.read(cut_off).steps] == list(range(STEPS))


def test_a_line_that_was_torn_before_the_checkpoint_is_cut(cut_off):
    """As earlier versions left it on a full disk."""
    content = (cut_off / "metrics.jsonl").read_bytes()
    (cut_off / "metrics.jsonl").write_bytes(content[:-1] + b" ")
    starts = []
    assert train(resume=cut_off, on_start=starts.append).finished
    assert "ended in a part of a line" in starts[0].notes[0]
    lines = (cut_off / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)


def test_a_folder_in_which_a_run_was_killed_while_it_began_is_new(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / ".config.resolved.json.0123456789abcdef.partial").write_text("{")
    with pytest.raises(ArgumentError, match="There is no run in"):
        train(resume=folder)
    assert train(TABLE, folder).finished
    assert names(folder) == {"config.resolved.json", "metrics.jsonl", "checkpoint.pt", "run.png"}


# What was written is kept


def test_a_picture_that_cannot_be_drawn_loses_nothing(tmp_path, monkeypatch):
    def broken(history):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(run_folder, "run_picture", broken)
    (tmp_path / "c.json").write_text(json.dumps(TABLE))
    result = ddn("train", "c.json", "--out", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "note: the picture of the run is missing: RuntimeError: no fonts" in result.stdout
    assert "run.png" not in result.stdout
    assert names(tmp_path / "run") == {"config.resolved.json", "metrics.jsonl", "checkpoint.pt"}
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == STEPS


def test_a_picture_that_cannot_be_written_is_a_note(tmp_path):
    folder = tmp_path / "run"
    result = train(TABLE, folder, on_event=lambda event: (folder / "run.png").mkdir(exist_ok=True))
    assert result.finished
    assert result.notes == (
        f"the picture of the run is missing: {folder / 'run.png'} cannot be written: Is a directory.",
    )


def test_a_run_that_was_killed_before_its_picture_gets_it_later(cut_off):
    older = {path.name: path.read_bytes() for path in CheckpointFolder(cut_off).paths()}
    assert train(resume=cut_off).finished
    finished = names(cut_off)
    (cut_off / "run.png").unlink()
    (cut_off / "checkpoints").mkdir()
    for name, content in older.items():
        (cut_off / "checkpoints" / name).write_bytes(content)
    with pytest.raises(ArgumentError, match=r"is finished\. There is nothing to resume\."):
        train(resume=cut_off)
    assert names(cut_off) == finished


def test_other_files_among_the_checkpoints_fail_nothing(cut_off):
    checkpoints = cut_off / "checkpoints"
    (checkpoints / "notes.txt").write_text("mine")
    (checkpoints / "step-1.pt.orig").touch()
    (checkpoints / "step-00000001.pt").unlink()
    (checkpoints / "step-00000001.pt").mkdir()
    starts = []
    assert train(resume=cut_off, on_start=starts.append).finished
    assert starts[0].step == 2
    assert names(checkpoints) == {"notes.txt", "step-1.pt.orig", "step-00000001.pt"}


def test_a_checkpoint_of_a_later_step_does_not_replace_new_ones(tmp_path):
    state = {"model": {}, "optimizer": {}, "config": {}, "progress": {}, "random": {}}
    folder = CheckpointFolder(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for number in (98, 99):
        (tmp_path / "checkpoints" / f"step-000000{number}.pt").touch()
    for number in range(4):
        folder.write(number, state)
    assert [path.name for path in folder.paths()][2:] == ["step-00000003.pt", "step-00000002.pt"]


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("metrics_bytes", -1, "metrics_bytes: "),
        ("metrics_bytes", "12", "metrics_bytes: "),
        ("config", ["x"], "config: "),
        ("spectra", {0: [1.0]}, r"spectra\.0\.0: "),
        ("progress", None, "progress: "),
    ],
)
def test_a_checkpoint_with_foreign_values_is_told(entry, value, message, tmp_path):
    state = {"model": {}, "optimizer": {}, "config": {}, "progress": {}, "random": {}, entry: value}
    save_checkpoint(tmp_path / "c.pt", state)
    with pytest.raises(ArgumentError, match=rf"c\.pt: is not a checkpoint of `ddn train`: {message}"):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("model", {"0.weight": torch.ones(2)}),
        ("optimizer", {"state": {}}),
        ("progress", {"epoch": None}),
        ("progress", {"epoch": 1, "losses": ["x"]}),
        ("ending", [1]),
        ("random", {"epoch": {}, "now": {}}),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_told(entry, value, cut_off):
    for path in CheckpointFolder(cut_off).paths():
        save_checkpoint(path, {**load_checkpoint(path), entry: value})
    with pytest.raises(DdnError, match=r"belongs to another model or optimizer|state"):
        train(resume=cut_off)


def test_a_run_of_a_version_with_fewer_settings_goes_on(tmp_path):
    """A setting of groups that the version which began the run did not have gets its default."""
    table = {**OURS, "groups": [{**GROUP, "params": ["0.*"]}], "fallback": {"kind": "sgd", "lr": 0.01}}
    run, seen = tmp_path / "run", []
    train(table, run, on_event=seen.append, should_stop=lambda: len(seen) == 4)
    resolved = json.loads((run / "config.resolved.json").read_text())
    del resolved["groups"][0]["gradient"]
    (run / "config.resolved.json").write_text(json.dumps(resolved))
    for path in CheckpointFolder(run).paths():
        state = load_checkpoint(path)
        for group in (*state["config"]["groups"], *state["optimizer"]["param_groups"]):
            del group["gradient"]
        save_checkpoint(path, state)
    assert train(resume=run).finished
    train(table, tmp_path / "whole")
    resumed, whole = (load_checkpoint(folder / "checkpoint.pt")["model"] for folder in (run, tmp_path / "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_a_run_of_another_version_of_torch_goes_on(tmp_path):
    """Versions of torch differ in the settings of Adam, and in what a scheduler saves."""
    training = {**TABLE["training"], "scheduler": {"kind": "exponential", "gamma": 0.5}}
    table = {**TABLE, "training": training, "optimizer": {"kind": "adam", "lr": 0.01}}
    run, seen = tmp_path / "run", []
    train(table, run, on_event=seen.append, should_stop=lambda: len(seen) == 4)
    for path in CheckpointFolder(run).paths():
        state = load_checkpoint(path)
        state["optimizer"]["param_groups"][0].pop("decoupled_weight_decay", None)
        state["scheduler"].pop("_is_initial", None)
        save_checkpoint(path, {**state, "scheduler": {**state["scheduler"], "verbose": False}})
    shutil.copytree(run, tmp_path / "damaged")
    assert train(resume=run).finished
    train(table, tmp_path / "whole")
    resumed, whole = (load_checkpoint(folder / "checkpoint.pt")["model"] for folder in (run, tmp_path / "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    for part, name in (("optimizer", "lr"), ("scheduler", "last_epoch")):
        for path in CheckpointFolder(tmp_path / "damaged").paths():
            state = load_checkpoint(path)
            del (state["optimizer"]["param_groups"][0] if part == "optimizer" else state["scheduler"])[name]
            save_checkpoint(path, state)
            with pytest.raises(ArgumentError, match=f"{name} is missing"):
                train(resume=tmp_path / "damaged")


# Nothing of the user's is removed


@pytest.mark.parametrize("out", [".", "../here"])
def test_a_folder_that_the_user_made_stays_if_the_first_step_fails(out, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DdnError, match="the first cause"):
        train(OURS, out, record=True, on_start=fail)
    assert (tmp_path / "here").is_dir()
    assert names(tmp_path / "here") == set()


def test_files_of_the_user_stay_and_do_not_hide_the_first_cause(tmp_path):
    folder = tmp_path / "run"

    def keep_notes(start):
        (folder / "notes.txt").write_text("mine")
        fail()

    with pytest.raises(DdnError, match="the first cause"):
        train(TABLE, folder, on_start=keep_notes)
    assert names(folder) == {"notes.txt"}


def test_a_run_that_fails_when_it_is_resumed_stays(tmp_path):
    """Even if it has not made a step: this process did not begin it."""
    run_folder.RunFolder.begin(tmp_path / "run", {}).close()
    (tmp_path / "c.json").write_text(json.dumps(TABLE))
    begun = train(TABLE, tmp_path / "other", should_stop=lambda: True)
    (tmp_path / "run" / "config.resolved.json").write_bytes((begun.folder / "config.resolved.json").read_bytes())
    with pytest.raises(DdnError, match="the first cause"):
        train(resume=tmp_path / "run", on_start=fail)
    assert names(tmp_path / "run") == {"config.resolved.json"}
    assert train(resume=tmp_path / "run").finished


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "trace"])
def test_a_run_writes_through_no_link(name, cut_off, tmp_path):
    outside = tmp_path / "outside"
    if (cut_off / name).exists():
        (cut_off / name).rename(outside)
    else:
        outside.mkdir()
        (outside / "step-00000001.safetensors").touch()
    (cut_off / name).symlink_to(outside)
    before = names(outside) if outside.is_dir() else outside.read_bytes()
    with pytest.raises(ArgumentError, match=f"{name} is a symbolic link"):
        train(resume=cut_off)
    assert (names(outside) if outside.is_dir() else outside.read_bytes()) == before


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x" * 300, "x cannot be written: File name too long"),
        ("file/run", "file/run cannot be written: Not a directory"),
        ("link", "link cannot be written: File exists"),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_error(out, message, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(ArgumentError, match=message):
        train(TABLE, tmp_path / out)
    assert names(tmp_path) == {"file", "link"}


@pytest.mark.parametrize("name", ["checkpoints", "trace"])
def test_a_file_in_place_of_a_folder_is_one_error(name, tmp_path):
    folder = tmp_path / "run"

    def block(_):
        (folder / name).touch()

    if name == "trace":
        seen = []
        train(OURS, folder, record=True, on_event=seen.append, should_stop=lambda: len(seen) == 2)
        for path in (folder / name).iterdir():
            path.unlink()
        (folder / name).rmdir()
        block(None)
        with pytest.raises(ArgumentError, match="trace cannot be written: File exists"):
            train(resume=folder)
    else:
        with pytest.raises(ArgumentError, match="checkpoints cannot be written: File exists"):
            train(TABLE, folder, on_start=block)
