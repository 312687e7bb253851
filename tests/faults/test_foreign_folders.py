"""A folder from elsewhere is data: commands write and delete nothing outside of it, and run no code that it brings."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from ddn_core.errors import ArgumentError
from ddn_core.runs.record import RunRecord, read_events, stored_config
from ddn_core.traces import Trace
from ddn_core.trials.folder import TrialFolder
from ddn_core.trials.plan import MOST, Task
from tests.commands import ddn
from tests.faults.folders import stopped_run, unfinished_comparison, unfinished_sweep

NAMES = ("../../victim/x", "..", ".", "", "a/b", "a\\b", "/victim", "a\0b")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run that was stopped, and a sweep and a comparison without any run."""
    place = tmp_path_factory.mktemp("made")
    stopped_run(place)
    unfinished_sweep(place)
    unfinished_comparison(place)
    return place


@pytest.fixture
def place(made, tmp_path):
    """Copies of them in a folder beside another one, whose content must stay as it is."""
    for name in ("stopped", "sweep", "comparison"):
        shutil.copytree(made / name, tmp_path / "received" / name)
    victim = tmp_path / "victim"
    (victim / "x").mkdir(parents=True)
    (victim / "file").write_text("precious")
    (victim / "x" / "file").write_text("precious")
    return tmp_path / "received"


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def changed(path, *keys, to):
    """Change a value in a file of JSON."""
    table = json.loads(path.read_text())
    inner = table
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(table))


def assert_refused(result, *parts):
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_names_are_one_plain_component_of_a_path(place, name):
    before = contents(place.parent)
    changed(place / "comparison/comparison.json", "entries", 0, "name", to=name)
    changed(place / "sweep/sweep.json", "config", to=name)
    changed(place / "stopped/trace/index.json", "steps", 0, "file", to=name)
    file = place / "comparison/comparison.json"
    assert_refused(ddn("compare", "--resume", place / "comparison"), str(file), "entries.0.name: Input should be the n")
    assert_refused(ddn("sweep", "--resume", place / "sweep"), str(place / "sweep/sweep.json"), "config: Input should b")
    with pytest.raises(ArgumentError, match=r"steps\.0\.file: Input should be the name of a file"):
        Trace.read(place / "stopped")
    for path in (file, place / "sweep/sweep.json", place / "stopped/trace/index.json"):
        path.write_bytes(before[path])
    assert contents(place.parent) == before


def test_two_configs_of_a_comparison_have_two_names(place):
    changed(place / "comparison/comparison.json", "entries", 0, "name", to="adam")
    assert_refused(ddn("compare", "--resume", place / "comparison"), "entries: Input should be configs with different")


def test_trials_of_a_sweep_are_numbered_and_search_the_same_paths(place):
    plan = place / "sweep/sweep.json"
    before = plan.read_bytes()
    for keys, value, message in (
        (("number",), 7, "trials: Input should be trials with the numbers from 0"),
        (("assignments",), ["training.epochs=1"], "trials: Input should be trials that assign to the same paths"),
        (("assignments",), ["training.epochs=oops"], "trials.1.assignments: Input should be assignments path=value"),
        (("assignments",), ["training.epochs=1\nother=2"], "trials.1.assignments: Input should be assignments"),
        (("number",), 2**70, "not a number of more than 64 bits"),
    ):
        changed(plan, "trials", 1, *keys, to=value)
        assert_refused(ddn("sweep", "--resume", place / "sweep"), f"{plan}: is not a plan of a sweep", message)
        plan.write_bytes(before)


def test_plans_of_absurd_size_are_refused(place):
    changed(place / "comparison/comparison.json", "seeds", to=10**12)
    assert_refused(
        ddn("compare", "--resume", place / "comparison"), f"seeds: Input should be less than or equal to {MOST}"
    )
    changed(place / "comparison/comparison.json", "seeds", to=MOST)
    assert_refused(ddn("compare", "--resume", place / "comparison"), f"at most {MOST} trials")
    config = place / "sweep/config.toml"
    assert_refused(ddn("compare", config, config, "--seeds", MOST), f"--seeds {MOST}: {2 * MOST} trials are more than")
    assert_refused(ddn("sweep", config, "--seeds", MOST + 1), f"--seeds {MOST + 1}: {MOST + 1} trials are more than")
    options = ("--random", "groups.0.lr=0.1..1", "--trials", "2", "--seed", 2**63)
    assert_refused(ddn("sweep", config, *options), f"--seed {2**63}: the number does not fit into 64 bits")


def test_a_config_whose_name_is_no_name_of_a_folder(place):
    config = shutil.copy(place / "sweep/config.toml", place / "a\\b.toml")
    assert_refused(ddn("compare", config), r"'a\\b' cannot be the name of a folder. Rename the config.")
    options = ("--grid", "groups.0.lr=0.5,1.0")
    assert_refused(ddn("sweep", config, *options), r"'a\\b.toml' cannot be the name of a folder. Rename the config.")


LINKS = {
    "the folder of all trials": ("comparison/trials", "victim"),
    "the folder of a trial": ("comparison/trials/newton/seed-0", "victim"),
    "a run": ("comparison/runs/newton/seed-0", "victim"),
    "a config": ("comparison/configs/newton.toml", "victim/file"),
    "the lock": ("comparison/lock", "victim/file"),
    "the plan": ("comparison/comparison.json", "victim/file"),
    "the folder of a trial of a sweep": ("sweep/trials/0000", "victim"),
    "the output of a trial": ("sweep/trials/0001/output.log", "victim/file"),
    "the metrics": ("stopped/metrics.jsonl", "victim/file"),
    "the picture": ("stopped/run.png", "victim/file"),
    "the checkpoints": ("stopped/checkpoints", "victim"),
    "a checkpoint": ("stopped/checkpoints/step-00000004.pt", "victim/file"),
    "the trace": ("stopped/trace", "victim"),
    "a partial file": ("stopped/trace/.index.json.partial", "victim/file"),
    "a link to nothing": ("stopped/run.png", "victim/new"),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_in_a_folder_that_continues_are_refused(place, name):
    link, target = LINKS[name]
    path, victim = place / link, place.parent / "victim"
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (place.parent / target).read_bytes() if (place.parent / target).is_file() else None
    if name == "the plan":  # so that there is a plan to continue
        content = unfinished_comparison(place.parent).joinpath("comparison.json").read_bytes()
        (place.parent / target).write_bytes(content)
    path.symlink_to(os.path.relpath(place.parent / target, path.parent))
    before = contents(victim)
    folder = place / link.partition("/")[0]
    command = {"comparison": "compare", "sweep": "sweep", "stopped": "train"}[folder.name]
    assert_refused(ddn(command, "--resume", folder), f"{path} is a symbolic link, and ddn does not follow links")
    assert contents(victim) == before
    assert path.is_symlink()


def test_a_link_that_a_trial_left_is_removed_and_its_target_is_kept(tmp_path):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/file").touch()
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial/latest").symlink_to(tmp_path / "victim")
    task = Task(0, "", tmp_path / "trial", tmp_path / "trial/run", tmp_path / "c.toml", ())
    assert TrialFolder(tmp_path, None).prepare(task)
    assert list((tmp_path / "trial").iterdir()) == []
    assert (tmp_path / "victim/file").exists()


def test_the_folder_itself_may_be_a_link(place):
    (place / "linked").symlink_to(place / "stopped")
    assert stored_config(place / "linked").is_file()


def test_a_report_replaces_a_link_and_writes_to_no_other_file(place):
    (place / "stopped/report.html").symlink_to(place.parent / "victim/file")
    before = contents(place.parent / "victim")
    assert ddn("report", place / "stopped").returncode == 0
    assert contents(place.parent / "victim") == before
    assert not (place / "stopped/report.html").is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("file", ["metrics.jsonl", "config.resolved.json", "trace/index.json"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(place, file):
    (place / "stopped" / file).unlink()
    os.mkfifo(place / "stopped" / file)
    with pytest.raises(ArgumentError, match=f"{file} is not a regular file"):
        Trace.read(place / "stopped") if "trace" in file else RunRecord.read(place / "stopped")


class Evil:
    """An object whose unpickling runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_checkpoints_run_no_code(place):
    for path in (place / "stopped/checkpoints").iterdir():
        torch.save({"format": "ddn checkpoint 1", "model": Evil(place / "ran")}, path)
    result = ddn("train", "--resume", place / "stopped")
    assert result.returncode == 1
    assert "no checkpoint can be used" in result.stderr
    options = ("--checkpoint", place / "stopped/checkpoints/step-00000004.pt", "--out", place / "out")
    assert ddn("spectrum", place / "sweep/config.toml", *options).returncode == 1
    assert ddn("report", place / "stopped").returncode == 0
    assert not (place / "ran").exists()


MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_the_report_escapes_all_text(place):
    run = place / "stopped"
    changed(run / "config.resolved.json", "problem", "kind", to=MARKUP)
    changed(run / "config.resolved.json", MARKUP, to=MARKUP)
    changed(run / "config.resolved.json", "provenance", to={MARKUP: MARKUP, "plugins": [{"name": MARKUP}]})
    event = {"event": "epoch", "epoch": 1, "step": 3, "train_loss": 1, "test_loss": 1, "test_metrics": {MARKUP: 1}}
    event |= {"whole_train_loss": None, "seconds": 1, "step_seconds": 1, "ends_epoch": True}
    end = {"event": "end", "rule": MARKUP, "reason": MARKUP, "step": 3, "diverged_at": 2, "advice": [MARKUP]}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f"{json.dumps(event)}\n{json.dumps(end)}\n")
    assert ddn("report", run).returncode == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page


def test_what_a_folder_names_is_loaded_only_with_permission(place, tmp_path):
    """A config and a trace may name kinds of any plugin; the permission for plugins holds for them, too."""
    kind = {"kind": "acme/spectral-floor"}
    index = place / "stopped/trace/index.json"
    changed(index, "steps", 0, "groups", 0, "damping", to=kind)
    changed(place / "stopped/config.resolved.json", "groups", 0, "damping", to=kind)
    site = tmp_path / "site"
    info = site / "ddn_acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ddn-acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ddn]\nacme = acme_ddn\n")
    (site / "acme_ddn.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    allowed = ("--plugins", "builtin")
    result = ddn(*allowed, "train", "--resume", place / "stopped", site=site)
    assert result.returncode == 1
    assert "needs plugin 'acme' (ddn-acme 1.0), which is switched off by --plugins=builtin" in result.stderr
    config = place / "sweep/config.toml"
    assert ddn(*allowed, "replay", place / "stopped", config, "--out", tmp_path / "replay", site=site).returncode == 0
    assert not (tmp_path / "ran").exists()


def test_a_last_line_that_was_cut_off_is_left_out_and_any_other_is_not(place):
    metrics = place / "stopped/metrics.jsonl"
    whole = metrics.read_bytes()
    steps = read_events(metrics)[0]
    metrics.write_bytes(whole + whole[:50])
    assert read_events(metrics)[0] == steps
    metrics.write_bytes(whole + b'{"event": "step"}\n')
    with pytest.raises(
        ArgumentError, match=r"metrics.jsonl, line \d+: is not an event of a run: step.loss: Field required"
    ):
        read_events(metrics)
