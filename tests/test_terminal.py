"""What the commands print: text from elsewhere is shown as it is, errors are one line, and a failing stream is an error."""

from __future__ import annotations

import ast
import errno
import io
import os
import re
from pathlib import Path

import pytest
import typer
from rich.table import Table

from ddn_core.cli.options import reported_errors
from ddn_core.cli.terminal import OutputError, Terminal, lines, say, say_error
from ddn_core.cli.trials import _line, _show_failures
from ddn_core.errors import ArgumentError
from ddn_core.trials.plan import Task
from ddn_core.trials.process import Result

HOSTILE = "[red]a[/red] [/] :smile: \x1b]0;title\x07\x1b[2J\r\u202eback\udcff\nnext\x9b"
SHOWN = r"[red]a[/red] [/] :smile: \x1b]0;title\x07\x1b[2J\r\u202eback\udcff\nnext\x9b"
CLI = Path(__file__).parents[1] / "ddn_core" / "cli"


def hostile_table():
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(lines(HOSTILE))
    return table


@pytest.mark.parametrize(
    ("show", "times"),
    [
        (lambda: Terminal().print(HOSTILE), 1),
        (lambda: say(Terminal(), HOSTILE, "red"), 1),
        (lambda: Terminal().print(hostile_table()), 3),
    ],
)
def test_strings_are_shown_as_they_are(show, times, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    show()
    output = capsys.readouterr().out
    assert output.count(SHOWN) == times
    assert not re.search("[^\\n\\x20-\\x7e\u2500-\u257f]", output)


def test_lines_of_an_error_stay_lines(capsys):
    say_error("a\n  b\x1b[31m")
    assert capsys.readouterr().err == "error: a\n  b\\x1b[31m\n"


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.stem)
def test_commands_print_through_the_terminal(path):
    """Another console would interpret text from elsewhere."""
    if path.stem in ("terminal", "process"):
        return
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert {"print", "Console", "Text"} & {ast.unparse(call).partition(".")[0] for call in calls} == set()


class Broken(io.StringIO):
    """A stream that fails."""

    def __init__(self, error):
        super().__init__()
        self._error = error

    def write(self, text):
        raise self._error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("show", [lambda one: one.print("a"), lambda one: one.write("a")])
def test_a_stream_that_fails_is_named(show, monkeypatch):
    monkeypatch.setattr("sys.stdout", Broken(FULL))
    with pytest.raises(OutputError, match=r"Standard output cannot be written: No space left on device\."):
        show(Terminal())


def test_an_error_that_cannot_be_shown_hides_nothing(monkeypatch):
    monkeypatch.setattr("sys.stderr", Broken(FULL))
    with pytest.raises(typer.Exit) as ended, reported_errors():
        raise ArgumentError("wrong")
    assert ended.value.exit_code == 1


@pytest.mark.parametrize(
    ("error", "status", "shown"),
    [
        (ArgumentError("wrong"), 1, "error: wrong\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a\x1b"), 1, "error: a\\x1b: File name too long.\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "error: No space left on device.\n"),
        (
            OutputError("Standard output", FULL),
            1,
            "error: Standard output cannot be written: No space left on device. Send it elsewhere.\n",
        ),
        (OutputError("Standard output", BrokenPipeError(errno.EPIPE, "Broken pipe")), 1, ""),
        (
            UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"),
            1,
            "error: 'a\\udcff' cannot be written as utf-8: surrogates not allowed.\n",
        ),
        (
            SystemExit(0),
            1,
            "error: The command was ended before it was done: code of a plugin called sys.exit(0).\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_failure_is_one_line(error, status, shown, capsys):
    with pytest.raises(typer.Exit) as ended, reported_errors():
        raise error
    assert ended.value.exit_code == status
    assert capsys.readouterr().err == shown


def task(label="a"):
    return Task(0, label, Path(), Path(), Path(), ())


def test_tables_of_trials_are_bounded(capsys):
    """An error of 100 MB would take minutes to lay out."""
    failed = Result(state="failed", exit_status=1, seconds=0, error="x" * 10**6)
    say(Terminal(), _line(task("y" * 10**6), failed, "train_loss"))
    _show_failures(Terminal(), [task("y" * 10**6)], {0: failed})
    output = capsys.readouterr().out
    assert len(output) < 10_000
    assert output.count("…") == 4
