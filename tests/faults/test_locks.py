"""A folder has one writer, and what a killed process leaves behind does not keep others out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ddn_core import locks
from ddn_core.errors import ArgumentError
from ddn_core.locks import FolderLock
from ddn_core.runs import RunRecord
from tests.commands import PausedRun, ddn

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("forked"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
]

# Holds the lock of a folder, forks a child that stays, and announces both.
HOLDER = """
import os, sys, time
from pathlib import Path
from ddn_core.locks import FolderLock

lock = FolderLock(Path(sys.argv[1]))
lock.acquire("held")
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(3600)
time.sleep(3600)
"""

# Inherits a lock as a trial does, forks a child in a session of its own, and announces it.
TRIAL = """
import os, subprocess, sys, time
from ddn_core.trials.process import die_with_parent

number = int(os.environ["DDN_TRIAL_LOCK"])
die_with_parent()
if os.fork() == 0:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), number)  # another file gets the number that the lock had
    if os.fork() == 0:
        os.fstat(number)
        os._exit(0)
    print(os.getpid(), os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
    time.sleep(3600)
time.sleep(3600)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "c.toml").write_text(
        'problem = { kind = "digits-mlp", hidden = [8] }\n'
        "training = { epochs = 2, checkpoint_seconds = 0 }\n"
        'optimizer = { kind = "adam", lr = 0.01 }\n'
    )
    return tmp_path / "c.toml"


def test_a_run_that_is_written_cannot_be_resumed_by_another_process(config, tmp_path):
    folder = tmp_path / "run"
    run = PausedRun([config, "--out", folder], tmp_path / "output", str(folder / "checkpoints" / ".step-00000010"), 1)
    assert run.paused, (tmp_path / "output").read_text()
    before = (folder / "metrics.jsonl").read_bytes()
    for arguments in (["--resume", folder], [config, "--out", folder]):
        result = ddn("train", *arguments)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert run.go_on() == 0, (tmp_path / "output").read_text()
    steps = [event.step for event in RunRecord.read(folder).steps]
    assert steps == list(range(len(steps)))


def test_the_lock_of_a_killed_run_is_free(config, tmp_path):
    folder = tmp_path / "run"
    run = PausedRun([config, "--out", folder], tmp_path / "output", str(folder / "checkpoints" / ".step-00000010"), 1)
    assert run.paused, (tmp_path / "output").read_text()
    run.kill()
    assert (folder / "lock").exists()
    assert ddn("train", "--resume", folder).returncode == 0
    assert not (folder / "lock").exists()


def test_a_child_that_outlives_the_holder_does_not_hold_the_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(ArgumentError, match="held"):
                FolderLock(tmp_path).acquire("held")
            holder.kill()
            holder.wait()
            lock = FolderLock(tmp_path)
            lock.acquire("held")
            lock.release()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_that_outlives_a_trial_does_not_hold_the_lock_of_the_sweep(tmp_path):
    """The sweep is killed; its trial kills itself; a daemon that the trial has started lives on."""
    fcntl = pytest.importorskip("fcntl")
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)  # as the lock of a sweep
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    trial = subprocess.Popen(
        [sys.executable, "-c", TRIAL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(descriptor,),
        start_new_session=True,
        env={**os.environ, "DDN_TRIAL_LOCK": str(descriptor)},
        text=True,
    )
    with trial:
        daemon, status = map(int, trial.stdout.readline().split())
        try:
            assert status == 0  # the grandchild closed no file but the lock
            os.close(descriptor)  # as the system does when the sweep is killed: without unlocking
            with pytest.raises(ArgumentError, match="held"):
                FolderLock(tmp_path).acquire("held")
            trial.stdin.close()
            assert trial.wait() == -signal.SIGKILL
            other = FolderLock(tmp_path)
            other.acquire("held")
            other.release()
        finally:
            os.kill(daemon, signal.SIGKILL)
