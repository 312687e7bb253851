"""A disk that is full is one error that names the file, and loses nothing that was written before."""

from __future__ import annotations

import os
import subprocess

import pytest

from ddn_core.errors import DdnError
from ddn_core.runs import RunRecord
from ddn_core.training import train
from tests.commands import ddn

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("full-disk")]

CONFIG = """
problem = { kind = "regression-1d", samples = 16 }
training = { epochs = 200, checkpoint_seconds = 1000 }
optimizer = { kind = "sgd", lr = 0.01 }
"""


@pytest.fixture
def disk(tmp_path):
    """A file system of its own with 128 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG)
    return tmp_path / "c.toml"


def fill(disk, left):
    """Fill the disk up to a number of free bytes, and return the file that fills it."""
    ballast = disk / "ballast"
    space = os.statvfs(disk)
    ballast.write_bytes(bytes(space.f_bavail * space.f_frsize - left))
    return ballast


def only_error(result):
    """Return the error of a command, which is its only line on standard error."""
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    return line


def test_a_run_on_a_full_disk_can_be_resumed(disk, config):
    """The metrics do not fit, in the middle of a run, and what is there ends with a whole line."""
    ballast = fill(disk, 32 * 1024)
    folder = disk / "run"
    result = ddn("train", config, "--out", folder)
    assert only_error(result) == f"error: {folder / 'metrics.jsonl'} cannot be written: No space left on device."
    content = (folder / "metrics.jsonl").read_bytes()
    assert content.endswith(b"\n")
    steps = len(RunRecord.read(folder).steps)
    assert 0 < steps < 200
    assert {path.name for path in folder.iterdir()} == {"config.resolved.json", "metrics.jsonl"}
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert ddn("train", "--resume", folder).returncode == 0
    assert [event.step for event in RunRecord.read(folder).steps] == list(range(200))
    assert (folder / "metrics.jsonl").read_bytes().startswith(content[:100])


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(disk, config):
    folder = disk / "run"
    always = ["--set", "training.checkpoint_seconds=0", "--set", "problem.hidden=[64, 64]"]
    result = ddn("train", config, "--out", folder, *always)
    error = only_error(result)
    assert error.startswith(f"error: {folder / 'checkpoints' / 'step-'}")
    assert error.endswith(".pt cannot be written: No space left on device.")
    assert not list(folder.rglob(".*"))
    assert list((folder / "checkpoints").iterdir())
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
    result = ddn("train", "--resume", folder)
    assert result.returncode == 0, result.stderr
    assert "note" not in result.stdout
    assert [event.step for event in RunRecord.read(folder).steps] == list(range(200))


def test_a_run_that_finds_no_room_leaves_nothing(disk, config):
    fill(disk, 0)
    result = ddn("train", config, "--out", disk / "run")
    assert only_error(result).endswith("cannot be written: No space left on device.")
    assert {path.name for path in disk.iterdir()} == {"ballast"}


def test_a_trace_that_does_not_fit_is_one_error(disk, tmp_path):
    (tmp_path / "c.toml").write_text(
        'problem = { kind = "regression-1d", samples = 16 }\n'
        'groups = [{ params = ["*"], criterion = { kind = "all" }, damping = { kind = "constant" } }]\n'
    )
    fill(disk, 24 * 1024)
    result = ddn("train", tmp_path / "c.toml", "--out", disk / "run", "--record")
    error = only_error(result)
    assert f"{disk / 'run' / 'trace'}" in error
    assert error.endswith("cannot be written: No space left on device.")


def test_a_picture_that_does_not_fit_is_a_note(disk, config):
    """The final checkpoint fits, and the picture, of some 40 KB, does not."""
    fill(disk, 64 * 1024)
    result = ddn("train", config, "--out", disk / "run", "--set", "training.epochs=1")
    assert result.returncode == 0, result.stderr
    assert "note: the picture of the run is missing: " in result.stdout
    assert RunRecord.read(disk / "run").finished


def test_a_sweep_on_a_full_disk_is_one_error(disk, config):
    """Its results do not fit. Its trials do not start, as their configs are written first."""
    fill(disk, 0)
    result = ddn("sweep", config, "--seeds", "2", "--out", disk / "sweep")
    assert only_error(result).endswith("cannot be written: No space left on device.")


def test_a_read_only_disk_is_one_error(disk, config):
    """For a new run, and for one that is resumed, which stays as it is."""
    begun = ddn("train", config, "--out", disk / "run", "--set", "training.epochs=1")
    assert begun.returncode == 0, begun.stderr
    (disk / "run" / "checkpoint.pt").unlink()  # as if it had been killed a moment earlier
    before = {path: path.read_bytes() for path in (disk / "run").iterdir()}
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for arguments in ((config, "--out", disk / "new"), ("--resume", disk / "run")):
        error = only_error(ddn("train", *arguments))
        assert error == f"error: {arguments[-1]} cannot be written: Read-only file system."
    error = only_error(ddn("sweep", config, "--seeds", "2", "--out", disk / "sweep"))
    assert error == f"error: {disk / 'sweep'} cannot be written: Read-only file system."
    assert {path: path.read_bytes() for path in (disk / "run").iterdir()} == before


def test_a_mounted_folder_stays_if_the_first_step_fails(disk, config):
    def fail(start):
        raise DdnError("the first cause")

    with pytest.raises(DdnError, match="the first cause"):
        train(config, disk, on_start=fail)
    assert list(disk.iterdir()) == []
    assert train(config, disk, overrides=["training.epochs=1"]).finished
