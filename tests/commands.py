"""The `ddn` command as tests call it: in this process, in a new one, or in one that stops at a chosen moment."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest


def ddn(*arguments, cwd=None, site=None, **variables):
    """Run the command in this process, which saves the seconds that a new one needs to import torch.

    An exception that the command does not handle is raised here; in a process it would be a traceback.

    Args:
        arguments: Arguments of the command.
        cwd: Folder to run it in.
        site: Folder with installed packages, in addition to those of the environment.
        variables: Environment variables.
    """
    from typer.testing import CliRunner

    from ddn_core.cli.app import app

    environment = {"COLUMNS": "250", "NO_COLOR": "1", **variables}
    with contextlib.chdir(cwd or "."), installed(site):
        result = CliRunner().invoke(app, [*map(str, arguments)], env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


@contextlib.contextmanager
def installed(site):
    """Make the packages of a folder importable, and forget them afterwards."""
    from ddn_core.plugins.registry import installed_registry

    with pytest.MonkeyPatch.context() as patch:
        if site is not None:
            patch.syspath_prepend(str(site))
        installed_registry.cache_clear()
        try:
            yield
        finally:
            installed_registry.cache_clear()
            for name in [name for name in sys.modules if name.partition(".")[0].endswith("_ddn")]:
                del sys.modules[name]


def ddn_process(*arguments, cwd=None):
    """Run the command in a process of its own, in which every warning is an error."""
    command = [sys.executable, "-W", "error", "-c", "from ddn_core.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "250", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.preloaded"])


def forked(target, *arguments) -> multiprocessing.process.BaseProcess:
    """Start a process that is forked from a server which has imported what the command needs."""
    with contextlib.chdir(Path(__file__).parents[1]):  # where the server, which the first process starts, finds tests
        forkserver.ensure_running()
    process = _FORKS.Process(target=target, args=arguments)
    process.start()
    return process


class ForkedTrial:
    """The process of a trial as `subprocess.Popen` gives it, without the seconds that it takes to import torch.

    It is called and it ends as the process that it stands for, and it dies with its parent, too.

    Attributes:
        pid: Number of the process.
        stdin: Its standard input, which the parent holds open.
    """

    def __init__(self, command, *, stdout, stderr, env, **_options) -> None:
        """Start it with the arguments of `subprocess.Popen` that the parent of a trial gives."""
        from ddn_core.trials.process import _CHILD

        lifeline, self.stdin = _FORKS.Pipe(duplex=False)
        streams = [lifeline, *(Connection(os.dup(file.fileno()), readable=False) for file in (stdout, stderr))]
        arguments = command[len(_CHILD) :]
        self._process = forked(_trial, arguments, env, os.getcwd(), streams)
        self.pid = self._process.pid
        for stream in streams:
            stream.close()

    def poll(self):
        """Return the exit status; `None` while the process runs."""
        return self._process.exitcode

    def wait(self):
        """Return the exit status when the process has ended."""
        self._process.join()
        return self._process.exitcode

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()


@contextlib.contextmanager
def forked_trials():
    """Start trials as forks of the server."""
    from ddn_core.trials import process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "subprocess", SimpleNamespace(Popen=ForkedTrial, PIPE=subprocess.PIPE))
        yield


def _trial(arguments, environment, folder, streams) -> None:
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    os.environ.clear()
    os.environ.update(environment)
    os.environ.pop("DDN_TRIAL_LOCK", None)  # a process that is forked from the server inherits no lock
    os.chdir(folder)
    sys.argv = ["ddn", *arguments]
    from ddn_core.cli import main
    from ddn_core.trials.process import die_with_parent

    die_with_parent()
    main()


class PausedRun:
    """`ddn train` in a process of its own that stops at a chosen access to a file, and waits.

    Nothing depends on the speed of the process: it announces its stop, and continues on request. The clock that decides
    when a checkpoint is due is replaced: it advances by 8 ms each time the trainer reads it.

    Attributes:
        paused: Whether the process reached the moment; otherwise it has ended.
        accesses: Number of accesses that it made so far.
    """

    def __init__(self, arguments, output: Path, text: str, count: int | None) -> None:
        """Start it, and wait until it stops or ends.

        Args:
            arguments: Arguments of `ddn train`.
            output: The file that gets what the process writes to stdout and stderr.
            text: Accesses to paths that contain this text are counted.
            count: Number of the access before which the process stops; `None` lets it run to its end.
        """
        self._connection, other = _FORKS.Pipe()
        self.process = forked(_train, [*map(str, arguments)], str(output), text, count, other)
        other.close()
        self.paused, self.accesses = self._connection.recv()
        if not self.paused:
            self.process.join()

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.join()

    def go_on(self) -> int:
        """Let the process run to its end, and return its exit status."""
        self._connection.send(None)
        self.process.join()
        return self.process.exitcode


ACCESSES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}


def _train(arguments, output, text, count, connection) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    warnings.simplefilter("error")
    accesses, ticks, monotonic = itertools.count(1), itertools.count(), time.monotonic
    made = 0

    def pause(event, given):
        nonlocal made
        if event in ACCESSES and isinstance(given[0], str | os.PathLike) and text in os.fspath(given[0]):
            made = next(accesses)
            if made == count:
                connection.send((True, made))
                try:
                    connection.recv()
                except EOFError:  # the test has ended
                    os._exit(1)

    def clock():
        in_trainer = sys._getframe(1).f_globals["__name__"].endswith("run_folder")
        return 0.008 * next(ticks) if in_trainer else monotonic()

    time.monotonic = clock
    sys.addaudithook(pause)
    sys.argv = ["ddn", "train", *arguments]
    os.environ.update(COLUMNS="250", NO_COLOR="1")
    from ddn_core.cli import main

    try:
        main()
    finally:
        if count is None or made < count:
            connection.send((False, made))
