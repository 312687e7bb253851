"""The `ddn` command as a real process, whose streams, limits and signals a test chooses."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

CODE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may ignore it
CODE += "from ddn_core.cli import main; main()"

CONFIG = """\
[problem]
kind = "digits-mlp"
hidden = [4]
batch_size = 500

[training]
epochs = 1

[[groups]]
params = ["*"]
criterion = { kind = "top-k", k = 2 }
damping = { kind = "constant", value = 1.0 }
"""


def start(*arguments, cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, code=CODE, prepare=None, **variables):
    """Start the command.

    Args:
        arguments: Arguments of the command, text or bytes.
        cwd: Folder to run it in.
        stdout: Its standard output.
        stderr: Its standard error.
        code: Code that runs it.
        prepare: Function that the new process calls before the command.
        variables: Environment variables.
    """
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *map(os.fspath, arguments)],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        preexec_fn=prepare,
    )


def ended(process):
    """Return exit status, output and errors of a process that ends by itself; bytes that are not UTF-8 are escaped."""
    output, errors = process.communicate(timeout=300)
    texts = [(part or b"").decode("utf-8", "backslashreplace") for part in (output, errors)]
    return process.returncode, *texts


def wait_until(happened, process):
    """Wait until something has happened that a running command does."""
    while not happened():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
            raise AssertionError(process.communicate())


def run(*arguments, **options):
    """Run the command to its end."""
    return ended(start(*arguments, **options))


def assert_one_line(result, status=1):
    """Check that a command failed with one line on standard error."""
    returned, _, errors = result
    assert returned == status, errors
    assert errors.startswith("error: "), errors
    assert errors.count("\n") == 1, errors
