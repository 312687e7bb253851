"""The comparison of our defaults with first-order optimizers: outcomes, checks, tables, targets, and the command."""

from __future__ import annotations

import json
from math import inf

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.command_line import app
from benchmarks.everyday import DEVELOPMENT, HELD_OUT
from benchmarks.everyday.optimizers import FIRST_ORDER
from benchmarks.measuring.failure import FAILED, failure
from benchmarks.measuring.learning_curve import L_BFGS
from benchmarks.parts import defaults
from benchmarks.parts.everyday_comparison import CHECKS, Comparison, Outcome
from benchmarks.settings import Settings

WITHOUT, WITH = "default, without closure", "default, with closure"
ADAM = FIRST_ORDER[1]


def _runs(side, losses, test_errors=(0.1, 0.1), seconds=1.0):
    """Runs of two seeds with the given losses at the end; an epoch takes the given seconds."""
    return [
        {"side": side, "seed": seed, "losses": [1.0, 0.9, loss], "seconds": [0.0, seconds, 2 * seconds]}
        | {"test_error": error}
        for seed, (loss, error) in enumerate(zip(losses, test_errors, strict=True))
    ]


def _measurement(*ours, name="p", problem_set="held-out", timed=()):
    """Measurement in which the best first-order setting has a loss of 0.2, in 2 seconds, and an error of 0.1 ± 0.02."""
    first_order = [run for side in FIRST_ORDER for run in _runs(side.name, (0.5, 0.5))]
    first_order = [run for run in first_order if run["side"] != ADAM.name]
    first_order += _runs(ADAM.name, (0.1, 0.4), (0.1 - 0.02 / 2**0.5, 0.1 + 0.02 / 2**0.5))
    described = {"title": "t", "samples": 3, "parameters": 4, "batch_size": 0, "epochs": 2}
    runs = [*first_order, *(run for side in ours for run in side)]
    return {"problem": name, "set": problem_set, **described, "runs": runs, "timed": list(timed)}


@pytest.mark.parametrize(
    ("ours", "diverged", "passed"),
    [
        (_runs(WITHOUT, (0.1, 0.39), seconds=0.9), 0, [True, True, True]),
        (_runs(WITHOUT, (0.1, 0.39), seconds=1.1), 0, [True, True, False]),
        (_runs(WITHOUT, (0.2, 0.21)), 0, [False, True, False]),
        (_runs(WITHOUT, (0.0, 1.1), (0.114, 0.114)), 1, [True, True, True]),
        (_runs(WITHOUT, (0.1, 0.1), (0.115, 0.115)), 0, [True, False, True]),
        (_runs(WITHOUT, (0.1, 0.1), (0.1, 0.14)), 0, [True, True, True]),
        (_runs(WITHOUT, (0.1, inf), (0.1, inf)), 1, [False, False, False]),
        ([{"side": WITHOUT, "seed": seed, **failure(FAILED, "why")} for seed in (0, 1)], 2, [False, False, False]),
    ],
)
def test_checks(ours, diverged, passed):
    found = Comparison(_measurement(ours))
    assert found.best.side == ADAM.name
    assert found.best.loss == pytest.approx(0.2)
    (outcome,) = found.ours
    assert outcome.diverged == diverged
    assert [check.is_met(found, outcome) for check in CHECKS] == passed
    assert defaults.summarize([found.measurement]).tables[0].rows == [
        [WITHOUT, "held-out", f"{diverged} of 2", *(f"{int(met)} of 1" for met in passed)]
    ]


def test_times_are_those_of_the_first_epoch_with_the_loss_and_of_a_run_beside_ours():
    ours = [{**run, "losses": [1.0, 0.2, 0.1]} for run in _runs(WITHOUT, (0.1, 0.1), seconds=3.0)]
    assert Comparison(_measurement(ours)).time_ratio(Outcome(WITHOUT, ours)) == pytest.approx(3.0 / 2.0)
    slower = _runs(ADAM.name, (0.1, 0.4), seconds=4.0)
    assert Comparison(_measurement(ours, timed=slower)).time_ratio(Outcome(WITHOUT, ours)) == pytest.approx(3.0 / 8.0)


@pytest.mark.parametrize(
    ("bad", "verdicts"), [(0, [True] * 4), (1, [False, True, True, True]), (2, [False, False, True, True])]
)
def test_targets_of_the_default(bad, verdicts):
    """The problems for development have no say, and without all held-out problems nothing is judged."""
    good, wrong = _runs(WITHOUT, (0.1, 0.1)), _runs(WITHOUT, (0.1, 2.0))
    held_out = [_measurement(wrong if n < bad else good, name=str(n)) for n in range(len(HELD_OUT))]
    development = [_measurement(wrong, name="d", problem_set="development")]
    targets = defaults.summarize(held_out + development).targets
    assert [target.met for target in targets] == verdicts
    assert all(WITHOUT in target.wanted for target in targets)
    assert [target.met for target in defaults.summarize(held_out[1:]).targets] == [None] * 4
    assert defaults.summarize(development).targets == []


def test_tables_and_figure_have_a_cell_for_each_problem_and_side():
    measurements = [
        _measurement(_runs(WITHOUT, (0.1, 2.0)), _runs("mine, with closure", (0.3, 0.3)), name="one"),
        _measurement(
            _runs(WITHOUT, (0.1, 0.1)), _runs("mine, with closure", (inf, 0.3)), _runs(L_BFGS, (0.1, 0.1)), name="two"
        ),
    ]
    _, losses, errors, times, problems = defaults.summarize(measurements).tables
    assert losses.rows[0][2:] == [ADAM.name, "0.2", "", "0.447 (1 diverged)", "0.3"]
    assert losses.rows[1][2:] == [ADAM.name, "0.2", "0.1", "0.1", "inf (1 diverged)"]
    assert errors.rows[0][2:] == [ADAM.name, "0.1 ± 0.02", "0.1", "", "0.1 ± 0", "0.1 ± 0"]
    assert times.rows[1][2:] == [ADAM.name, "2 s", "2 s (1×)", "2 s (1×)", "not reached"]
    assert problems.rows[0] == ["one", "held-out", "t", "3", "4", "all", "2"]
    assert "losses" in defaults.draw(measurements)


def test_the_command_keeps_the_runs_of_the_first_order_side(tmp_path):
    """A quick run, and one more with the first-order side from its files, where a changed result shows."""
    runner, results, documentation = CliRunner(), tmp_path / "results", tmp_path / "docs"
    threads = torch.get_num_threads()
    for arguments in (["--first-order-only"], []):
        ran = runner.invoke(app, ["defaults", "--quick", "--results", str(results), *arguments])
        assert ran.exit_code == 0, ran.output
        (measurement,) = json.loads((results / "defaults.json").read_text())["measurements"]
        sides = {run["side"] for run in measurement["runs"]}
        files = sorted((results / "defaults" / "quick").iterdir())
        assert len(files) == len(FIRST_ORDER) == len(sides) - (0 if arguments else 2)
        if arguments:
            changed = {**json.loads(files[0].read_text()), "losses": [1.0, 1e-6]}
            files[0].write_text(json.dumps(changed))
    assert [1.0, 1e-6] in [run["losses"] for run in measurement["runs"]]
    assert {WITHOUT, WITH} < sides
    assert torch.get_num_threads() == threads
    ran = runner.invoke(app, ["report", "--results", str(results), "--docs", str(documentation)])
    assert ran.exit_code == 0, ran.output
    assert "## Defaults on everyday problems" in (documentation / "benchmarks.md").read_text()
    assert (documentation / "_static" / "benchmarks" / "defaults-losses.png").exists()


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (Settings(None, pattern="*cancer*"), ["raw-cancer"]),
        (Settings(None, problem_sets=("development",)), list(DEVELOPMENT)),
        (Settings(None, problem_sets=("held-out",)), list(HELD_OUT)),
        (Settings(None), [*DEVELOPMENT, *HELD_OUT]),
        (Settings(None, quick=True), ["quick"]),
    ],
)
def test_problems_are_chosen_by_set_and_glob(settings, names):
    assert [name for _, name, _ in defaults._chosen(settings)] == names


def test_a_preset_that_does_not_exist_is_an_error(tmp_path):
    ran = CliRunner().invoke(app, ["defaults", "--preset", "nonsense", "--results", str(tmp_path)])
    assert ran.exit_code == 2
    assert "nonsense" in ran.output
    assert not list(tmp_path.iterdir())
