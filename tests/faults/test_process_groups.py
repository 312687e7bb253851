"""What a trial has started ends with it, however the trial ends."""

from __future__ import annotations

import os
import select
import signal
import sys

import pytest

from ddn_core.trials import process as trials_process
from ddn_core.trials.plan import Task
from ddn_core.trials.process import Process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="the system has no process groups"),
]

# A trial whose process leaves a child behind, which holds a named pipe open, and then ends as the test wants.
TRIAL = """
import os, signal, sys, time
from ddn_core.trials.process import die_with_parent

die_with_parent()
ready, wait = os.pipe()
if os.fork() == 0:
    os.open(sys.argv[1], os.O_WRONLY)
    os.write(wait, b"x")
    time.sleep(3600)
os.read(ready, 1)
{end}
"""
ENDS = {
    "ends": "sys.exit(0)",
    "leaves": "os._exit(0)",
    "fails": "raise RuntimeError",
    "is killed": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Return a function that starts a trial which ends in a way, and the end of the pipe that shows who lives."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    def start(end):
        code = TRIAL.format(end=end)
        monkeypatch.setattr(trials_process, "_CHILD", (sys.executable, "-c", code, str(tmp_path / "pipe")))
        task = Task(number=0, label="", place=tmp_path, run=tmp_path / "run", config=tmp_path / "c", overrides=())
        return Process.start(task, None, 1, None)

    yield start, reader
    os.close(reader)


def all_ended(reader):
    """Wait until nobody holds the pipe open any more, for a minute at most."""
    poll = select.poll()
    poll.register(reader, select.POLLHUP)
    return bool(poll.poll(60_000))


@pytest.mark.parametrize("how", ENDS)
def test_what_a_trial_leaves_behind_is_killed(how, started):
    start, reader = started
    process = start(ENDS[how])
    result = process.result()
    assert all_ended(reader)
    assert result.state == "failed"
    assert result.exit_status == {"ends": 0, "leaves": 0, "fails": 1, "is killed": -signal.SIGKILL}[how]


def test_a_trial_that_is_stopped_ends_with_what_it_started(started):
    start, reader = started
    process = start("print('x', flush=True); time.sleep(3600)")
    while not (process.task.place / "output.log").read_bytes():
        assert not process.has_ended
    process.kill()
    assert all_ended(reader)
    assert process.result(timeout=1.0).state == "timed out"


def test_the_end_of_a_trial_is_seen_before_its_status_is_read(started):
    """Until then, the number of its group is its own, so that no other group can be killed in its place."""
    start, reader = started
    process = start("sys.exit(7)")
    while not process.has_ended:
        pass
    assert process.has_ended
    assert process.popen.returncode is None
    assert process.result().exit_status == 7
    assert process.result().exit_status == 7
    assert all_ended(reader)
