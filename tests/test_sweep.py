"""`ddn sweep`: the search space by properties, and the command with real trials."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddn_core import locks
from ddn_core.errors import ArgumentError, DdnError
from ddn_core.plugins.registry import installed_registry
from ddn_core.runs.scores import distinct
from ddn_core.trials import folder as trials_folder
from ddn_core.trials import process as trials_process
from ddn_core.trials.folder import opened
from ddn_core.trials.plan import Task
from ddn_core.trials.process import Process, Result, last_line
from ddn_core.trials.runner import Share
from ddn_core.trials.space import MOST, Choices, Range, combinations, dimensions, literal, plain
from ddn_core.trials.sweep import Search, SweepPlan, ranking
from tests.commands import forked_trials
from tests.trial_helpers import code_with, ddn, hold, interrupt, kill, release, start, table, trainer, wait_for

CONFIG = """
problem = { kind = "digits-mlp", hidden = [8], batch_size = 256 }
training = { epochs = 1, seed = 5 }
[[groups]]
params = ["*"]
criterion = { kind = "top-k", k = 5 }
damping = { kind = "constant", value = 1.0 }
"""
DAMPING = "groups.0.damping.value"


def sweep(*arguments, cwd):
    return ddn("sweep", *arguments, cwd=cwd)


def contents(path):
    return {one.relative_to(path): one.read_bytes() for one in path.rglob("*") if one.is_file()}


# The search space


toml_values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.datetimes(),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(toml_values)
def test_a_literal_is_read_as_the_value_that_it_was_made_of(value):
    text = literal(value)
    assert "\n" not in text
    read = tomllib.loads(f"value = {text}")["value"]
    assert read == value
    assert type(read) is type(value)


@given(st.lists(toml_values, min_size=1, max_size=4, unique_by=literal))
def test_choices_of_any_values_are_read_back(values):
    text = f"some.path={', '.join(map(literal, values))}"
    choices = Choices.of_text(text)
    assert [tomllib.loads(f"value = {one}")["value"] for one in choices.literals] == values
    assert Choices.of_text(str(choices)) == choices
    assert len(combinations([choices], None, 0)) == len(values)


def test_choices_may_be_text_lists_and_tables():
    assert Choices.of_text("training.dtype='float32', \"a,b=[\"").literals == ('"float32"', '"a,b=["')
    assert Choices.of_text("problem.hidden=[8],[16, 8]").literals == ("[8]", "[16, 8]")
    assert Choices.of_text('x={kind="top-k",k=3},{kind="all"}').literals == (
        '{kind = "top-k", k = 3}',
        '{kind = "all"}',
    )
    assert plain('"float32"') == "float32"
    assert plain("1e-3") == "1e-3"


ends = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63) + 1, 2**63 - 1)
places = st.floats(0, 1, exclude_max=True)


@given(ends, ends, places)
def test_uniform_draws_lie_in_the_range(one, other, place):
    low, high = sorted((one, other))
    if low == high:
        return
    drawn = Range.of_text(f"p={literal(low)}..{literal(high)}")
    value = tomllib.loads(f"value = {drawn.at(place)}")["value"]
    assert low <= value <= high
    assert isinstance(value, int) == (isinstance(low, int) and isinstance(high, int)) or value in (low, high)
    assert Range.of_text(str(drawn)) == drawn


@given(st.floats(1e-300, 1e300) | st.integers(1, 2**62), st.floats(1.001, 1e6) | st.integers(2, 1000), places)
def test_logarithmic_draws_lie_in_the_range_and_halve_it_at_the_geometric_mean(low, factor, place):
    high = low * factor
    if high > 2**63 - 1 and isinstance(high, int):
        return
    drawn = Range.of_text(f"p=log:{literal(low)}..{literal(high)}")
    assert low <= float(drawn.at(place)) * (1 + 1e-12)
    assert float(drawn.at(place)) <= high * (1 + 1e-12)
    if not drawn.integers:
        assert float(drawn.at(0.5)) == pytest.approx(math.sqrt(low) * math.sqrt(high), rel=1e-9)


@pytest.mark.parametrize("text", ["p=1..6", "p=log:1..6"])
def test_integers_are_all_drawn_with_both_ends(text):
    drawn = Range.of_text(text)
    assert {drawn.at(place / 1000) for place in range(1000)} == set("123456")
    assert {one for (one,) in combinations([drawn], 6, 3)} == {f"p={k}" for k in range(1, 7)}


@given(st.integers(1, 30), st.integers(0, 2**32))
def test_draws_are_distinct_and_repeatable(trials, seed):
    space = dimensions(['a="x","y"', "b=1,2"], ["c=log:1e-3..1", "d=1..10"])
    drawn = combinations(space, trials, seed)
    assert len(set(drawn)) == len(drawn) == trials
    assert combinations(space, trials, seed) == drawn
    assert [text.partition("=")[0] for text in drawn[0]] == ["a", "b", "c", "d"]


def test_draws_spread_evenly():
    values = [float(text.partition("=")[2]) for (text,) in combinations([Range.of_text("p=log:1e-4..1")], 2000, 0)]
    for exponent in range(-4, 0):
        count = sum(10.0**exponent <= value < 10.0 ** (exponent + 1) for value in values)
        assert abs(count - 500) < 100  # five standard deviations


@pytest.mark.parametrize(
    ("grid", "ranges", "trials", "message"),
    [
        (["lr"], [], None, "--grid: 'lr' names no path"),
        (["a..b=1"], [], None, "names no path"),
        (["lr="], [], None, "there is no value"),
        (["lr=fast"], [], None, "Write numbers as they are and text in quotes"),
        (["lr=1]\nb=[2"], [], None, "not a list of TOML literals"),
        (["lr=1]#"], [], None, "not a list of TOML literals"),
        (["lr=1,1"], [], None, "1 is listed twice"),
        (["lr=1", "lr=2"], [], None, "lr is given twice"),
        (["lr=1"], ["lr=1..2"], 1, "lr is given twice"),
        (["lr=1,2"], [], 3, "there are only 2 combinations"),
        ([], ["lr=1..2"], None, "give the number of draws with --trials N"),
        ([], ["lr=1"], 1, "is not a range"),
        ([], ["lr=2..1"], 1, "2 is not below 1"),
        ([], ["lr=log:0..1"], 1, "has no logarithm"),
        ([], ["lr=a..1"], 1, "'a' is not a finite number"),
        ([], ["lr=0..inf"], 1, "'inf' is not a finite number"),
        ([], [f"lr=0..{2**63}"], 1, "does not fit into 64 bits"),
        ([], ["lr=0.0..1.0"], MOST + 1, "are too many"),
        ([], ["lr=0.0..5e-324"], 3, "the ranges are narrow"),
        ([f"{name}={','.join(map(str, range(101)))}" for name in "ab"], [], None, "10201 combinations are more"),
    ],
)
def test_what_is_no_search_space(grid, ranges, trials, message):
    with pytest.raises(ArgumentError) as error:
        combinations(dimensions(grid, ranges), trials, 0)
    assert message in str(error.value)


# The plan


def plan(tmp_path, text=CONFIG, **options):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return SweepPlan.of(path, Search(**options), installed_registry())


def test_a_plan_has_a_trial_for_each_combination_and_seed(tmp_path):
    made = plan(tmp_path, grid=[f"{DAMPING}=0.1,1.0", "groups.0.lr=0.5,1.0"], seeds=2, overrides=["training.epochs=3"])
    assert [trial.number for trial in made.trials] == list(range(8))
    assert [trial.point for trial in made.trials] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [trial.seed for trial in made.trials[:2]] == [5, 6]
    assert made.trials[2].values == {DAMPING: "0.1", "groups.0.lr": "1.0"}
    assert made.tasks(tmp_path)[3].overrides == (
        "training.epochs=3",
        f"{DAMPING}=0.1",
        "groups.0.lr=1.0",
        "training.seed=6",
    )
    assert SweepPlan.model_validate_json(made.model_dump_json()) == made
    assert made.differences(made) == []
    assert made.label(made.trials[1]) == f"{DAMPING}=0.1 groups.0.lr=0.5 training.seed=6"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to search"),
        ({"grid": [f"{DAMPING}=1.0,-1.0"]}, f"with {DAMPING}=-1.0: c.toml: 1 error\n  {DAMPING}:"),
        ({"grid": ["groups.0.damping.valeu=1.0"]}, "unknown field. Did you mean 'value'?"),
        ({"grid": ["groups.7.lr=1.0"]}, "with groups.7.lr=1.0: groups.7: the list has 1 entry"),
        ({"grid": ["groups.0.lr=1.0"], "overrides": ["x"]}, "--set: 'x' is not an assignment"),
        ({"grid": ["training.seed=1,2"], "seeds": 2}, "training.seed is searched already"),
        ({"grid": [f"training.seed={2**63 - 1}"]}, None),
        ({"seeds": 2, "overrides": [f"training.seed={2**63 - 1}"]}, "training.seed:"),
        ({"seeds": 2, "text": CONFIG.partition("[[")[2].join(["[[", ""])}, "problem: is missing"),
    ],
)
def test_what_is_wrong_is_told_with_the_assignment(tmp_path, options, message):
    if message is None:
        assert len(plan(tmp_path, **options).trials) == 1
        return
    with pytest.raises(DdnError) as error:
        plan(tmp_path, **options)
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


# Ranking, sharing, reading


def done(value, state="finished"):
    return Result(state=state, exit_status=0, metrics={"accuracy": value}, seconds=1)


def test_the_ranking_is_by_the_median_and_what_failed_for_a_seed_comes_last(tmp_path):
    made = plan(tmp_path, grid=["groups.0.lr=1.0,2.0,3.0,4.0"], seeds=3)
    made = made.model_copy(update={"metric": "accuracy", "maximize": True})
    values = [0.1, 0.9, 0.2, 0.3, 0.4, 0.3, 0.99, 0.99, None, 0.5, 0.5, 0.5]
    results = {number: done(value) for number, value in enumerate(values)}
    results[9] = results[10] = results[11] = done(0.5, "failed")
    first, second, third = ranking(made, results)
    assert (first.trials[0].point, first.spread.values) == (1, (0.3, 0.4, 0.3))
    assert (second.trials[0].point, second.spread.median, second.spread.values) == (0, 0.2, (0.1, 0.9, 0.2))
    assert (third.trials[0].point, third.spread.values, third.spread.seeds) == (2, (0.99, 0.99), 3)
    assert [one.first.number for one in (first, second, third)] == [3, 0, 6]
    least = ranking(made.model_copy(update={"maximize": False}), results)
    assert [one.trials[0].point for one in least] == [0, 1, 2]
    assert distinct(result.metrics for result in results.values()) == ["accuracy"]


def diverged(step):
    return Result(state="diverged", exit_status=3, metrics={"accuracy": 1.0}, seconds=1, diverged_at=step)


def test_what_diverged_for_a_seed_is_last_and_never_the_best_unless_one_asks(tmp_path):
    made = plan(tmp_path, grid=["groups.0.lr=1.0,2.0,3.0,4.0"], seeds=3)
    made = made.model_copy(update={"metric": "accuracy", "maximize": True})
    results = {number: done(value) for number, value in enumerate([0.1, 0.2, 0.3, 0.9, 0.9, 0.9, 0.2, 0.3, None])}
    results[4] = diverged(24)
    results |= {number: diverged(number) for number in (9, 10, 11)}
    ranked = ranking(made, results)
    assert [one.trials[0].point for one in ranked] == [0, 2, 1, 3]
    assert [{trial.number: step for trial, step in one.diverged.items()} for one in ranked] == [
        {},
        {},
        {4: 24},
        {9: 9, 10: 10, 11: 11},
    ]
    assert ranked[2].spread.values == (0.9, 0.9)
    assert ranked[3].spread.values == ()
    assert [one.first.number if one.first else None for one in ranked] == [0, 6, 3, None]
    asked = ranking(made.model_copy(update={"allow_diverged": True}), results)
    assert [one.trials[0].point for one in asked] == [1, 0, 2, 3]


@pytest.mark.xdist_group("forked")
def test_a_sweep_with_a_seed_that_diverges(tmp_path):
    """By the median of the seeds that are left, the setting that diverges would be the best."""
    (tmp_path / "c.toml").write_text(
        CONFIG.replace("digits-mlp", "spirals").replace("batch_size = 256", "samples = 120, batch_size = 24")
    )
    values, epochs = (
        ["--grid", f"{DAMPING}=1e-3,1.0"],
        ["--set", "training.epochs=3", "--set", "groups.0.criterion={kind='all'}"],
    )
    with forked_trials():
        result = sweep("c.toml", *values, *epochs, "--out", "out", "--jobs", 1, cwd=tmp_path)
    assert result.exit_code == 0, result.output
    bad, good = table(tmp_path / "out/results.csv")
    assert (bad["state"], bad["exit_status"], good["state"], good["diverged_at"]) == ("diverged", "3", "finished", "")
    assert bad["end"].startswith(f"diverged at step {bad['diverged_at']}: the loss is")
    assert f"at step {bad['diverged_at']}" in result.output
    assert "1 trial failed" not in result.output
    assert "best config: out/best.json (trial 1" in result.output
    again = sweep("--resume", "out", "--retry-failed", cwd=tmp_path)
    assert "2 trials, 2 of them have ended" in again.output
    with forked_trials():
        worse = sweep("c.toml", "--grid", f"{DAMPING}=1e-3", *epochs, "--out", "bad", cwd=tmp_path)
    assert worse.exit_code == 1
    assert "no best config" in worse.output
    assert not (tmp_path / "bad/best.json").exists()


@pytest.mark.parametrize(
    ("threads", "jobs", "waiting", "on_gpu", "expected"),
    [
        (None, None, 100, False, (8, 1)),
        (None, None, 3, False, (3, 2)),
        (None, 2, 100, False, (2, 4)),
        (None, None, 100, True, (1, 8)),
        (None, None, 0, False, (1, 8)),
        ("2", None, 100, False, (4, 2)),
        ("2", 20, 100, False, (20, 2)),
        (None, 20, 100, False, (20, 1)),
    ],
)
def test_cores_are_shared(monkeypatch, threads, jobs, waiting, on_gpu, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS")
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    share = Share.of(jobs, waiting, on_gpu)
    assert (share.jobs, share.threads) == expected


STEP = {"event": "step", "loss": 1.0, "step": 0, "epoch": 1, "lr": [1.0], "seconds": 0.1}
EPOCH = {
    **{"event": "epoch", "epoch": 1, "step": 1, "train_loss": 2.0, "test_loss": None, "test_metrics": {"a": 0.5}},
    **{"whole_train_loss": None, "seconds": 1.0, "step_seconds": 0.5, "ends_epoch": True},
}


def test_the_result_of_a_run_that_was_cut_off(tmp_path):
    lines = [*map(json.dumps, (STEP, EPOCH, {**STEP, "step": 1})), '{"event": "ep']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    result = Result.of_run(tmp_path, -9, 2.0, "killed by SIGKILL")
    assert (result.metrics, result.epochs, result.steps) == ({"train_loss": 2.0, "test_loss": None, "a": 0.5}, 1, 2)
    assert (result.state, result.final("train_loss")) == ("failed", None)
    ended_early = Result.of_run(tmp_path, 0)
    assert (ended_early.state, ended_early.final("train_loss")) == ("failed", None)
    assert ended_early.error == "the process ended after 2 steps, before the end of the run"
    (tmp_path / "checkpoint.pt").touch()
    finished = Result.of_run(tmp_path)
    assert (finished.state, finished.final("train_loss"), finished.final("test_loss")) == ("finished", 2.0, None)


def test_the_result_of_a_run_without_an_epoch(tmp_path):
    result = Result.of_run(tmp_path / "none", 0)
    assert (result.metrics, result.epochs, result.steps) == ({}, 0, 0)
    assert (result.state, result.error) == ("failed", "the run ended without an epoch")


def test_the_result_of_a_run_with_damaged_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(f'{json.dumps(EPOCH)}\n{{"event"\n{json.dumps(STEP)}\n')
    result = Result.of_run(tmp_path, 0)
    assert result.state == "failed"
    assert "metrics.jsonl, line 2" in result.error


def test_a_folder_is_held_by_one_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0)
    made = plan(tmp_path, seeds=2)
    with (
        opened(tmp_path / "s", made),
        pytest.raises(ArgumentError, match=r"another sweep is running in .*\. Wait until it has ended, or name a new"),
        opened(tmp_path / "s", made),
    ):
        pass
    with opened(tmp_path / "s", made):
        pass


def test_a_folder_in_which_a_sweep_was_killed_while_it_began_is_new(tmp_path):
    made = plan(tmp_path, seeds=2)
    (tmp_path / "s").mkdir()
    for name in ("lock", ".sweep.json.0123456789abcdef.partial"):
        (tmp_path / "s" / name).touch()
    with opened(tmp_path / "s", made):
        assert {path.name for path in (tmp_path / "s").iterdir()} == {"lock", "sweep.json", "config.toml"}


def test_a_plan_that_cannot_be_read(tmp_path):
    (tmp_path / "sweep.json").write_text('{"version": 2}')
    with pytest.raises(
        ArgumentError, match=r"sweep.json: is not a plan of a sweep: overrides: Field required \(and 8 more\)"
    ):
        trials_folder.read_plan(tmp_path, SweepPlan)


# Real processes


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep of two trials, one of which failed."""
    place = tmp_path_factory.mktemp("sweep")
    (place / "c.toml").write_text(CONFIG)
    options = ["c.toml", "--grid", "curvature.subsampling_ggn=[0, 1, 2],[999]", "--out", "out"]
    result = sweep(*options, cwd=place)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return place, options, result.stdout


@pytest.mark.xdist_group("forked")
def test_one_failing_run_does_not_stop_the_rest(swept):
    place, _, output = swept
    good, bad = table(place / "out/results.csv")
    assert [row["state"] for row in (good, bad)] == ["finished", "failed"]
    assert [row["exit_status"] for row in (good, bad)] == ["0", "1"]
    assert [row["curvature.subsampling_ggn"] for row in (good, bad)] == ["[0, 1, 2]", "[999]"]
    assert 0 < float(good["accuracy"]) < 1
    assert float(good["train_loss"]) > 0
    assert float(good["seconds"]) > 0
    assert (good["epochs"], good["seed"]) == ("1", "5")
    assert int(good["steps"]) == len((place / "out/trials/0000/run/metrics.jsonl").read_text().splitlines()) - 1
    assert "subsampling_ggn has index 999" in bad["error"]
    assert bad["train_loss"] == ""
    assert "1 trial failed" in output
    assert output.count("subsampling_ggn has index 999") == 2  # as it fails, and at the end
    assert "best config: out/best.json (trial 0, curvature.subsampling_ggn=[0, 1, 2])" in output
    assert json.loads((place / "out/trials/0001/result.json").read_text())["state"] == "failed"
    assert "Run finished" in (place / "out/trials/0000/output.log").read_text()


@pytest.mark.xdist_group("forked")
def test_the_best_config_trains_to_the_same(swept):
    place, _, _ = swept
    result = ddn("train", "out/best.json", "--out", "again", cwd=place)
    assert result.exit_code == 0, result.stderr
    assert Result.of_run(place / "again").final("train_loss") == float(
        table(place / "out/results.csv")[0]["train_loss"]
    )


@pytest.mark.xdist_group("forked")
def test_another_sweep_into_the_folder_is_refused(swept):
    place, options, _ = swept
    before = contents(place / "out")
    for more, message in (
        (["--grid", "groups.0.lr=1.0"], "--grid and --random: curvature.subsampling_ggn=[0, 1, 2],[999] in the folder"),
        (["--seeds", "2"], "--seeds: 1 in the folder, 2 now"),
        (["--set", "training.epochs=2"], "--set: none in the folder, training.epochs=2 now"),
    ):
        result = sweep(*options, *more, cwd=place)
        assert result.exit_code == 1
        assert "out holds another sweep. Name a new folder." in result.stderr
        assert message in result.stderr
    assert "holds no sweep" in sweep(*options[:-1], ".", cwd=place).stderr
    assert contents(place / "out") == before
    result = sweep("--resume", "out", "--seeds", "2", cwd=place)
    assert "--resume continues the sweep in its folder. Leave out CONFIG" in result.stderr
    assert "nowhere holds no sweep" in sweep("--resume", "nowhere", cwd=place).stderr
    assert "name a CONFIG" in sweep(cwd=place).stderr
    assert contents(place / "out") == before


@pytest.mark.xdist_group("forked")
def test_what_has_ended_is_not_run_again_unless_it_failed_and_one_asks(swept, tmp_path):
    place, options = shutil.copytree(swept[0], tmp_path / "copy"), swept[1]
    before = contents(place / "out" / "trials")
    result = sweep(*options, cwd=place)
    assert result.exit_code == 0
    assert "2 trials, 2 of them have ended" in result.stdout
    assert contents(place / "out" / "trials") == before

    result = sweep("--resume", "out", "--metric", "acuracy", cwd=place)
    assert result.exit_code == 1
    assert "no trial has 'acuracy'; the trials have train_loss, test_loss, accuracy." in result.stderr
    assert not (place / "out" / "best.json").exists()

    with forked_trials():
        result = sweep("--resume", "out", "--metric", "accuracy", "--maximize", "--retry-failed", cwd=place)
    assert result.exit_code == 0
    assert "accuracy after the last epoch, more is better" in result.stdout
    assert (place / "out" / "best.json").exists()
    after = contents(place / "out" / "trials")
    changed = {path for path in before if after[path] != before[path]}
    assert {str(path) for path in changed} <= {"0001/result.json"}  # the seconds that it took


def task(place, config, *overrides):
    return Task(number=0, label="", place=place, run=place / "run", config=config, overrides=overrides)


def test_a_trial_is_started_with_its_share_and_what_the_sweep_was_allowed(tmp_path, monkeypatch):
    started = {}
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: started.update(options, command=command))
    Process.start(task(tmp_path, tmp_path / "config.toml", "a=1", "b=2"), "acme,other", 3, None)
    assert started["env"]["OMP_NUM_THREADS"] == "3"
    assert started["command"][4:] == [
        *("--plugins", "acme,other", "train", str(tmp_path / "config.toml"), "--out", str(tmp_path / "run")),
        *("--set", "a=1", "--set", "b=2"),
    ]


def test_a_trial_ends_when_nobody_holds_its_input_any_more(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG.replace("epochs = 1", "epochs = 100000"))
    process = Process.start(task(tmp_path, tmp_path / "c.toml"), None, 1, None)
    process.popen.stdin.close()  # as the system does when the sweep is killed
    assert process.popen.wait(timeout=300) == -signal.SIGKILL
    assert process.result().error == "killed by SIGKILL"


def test_a_sweep_that_is_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "c.toml").write_text(CONFIG)
    child = trainer(tmp_path)
    code = code_with(child)
    options = ["sweep", "c.toml", "--seeds", "3", "--jobs", "1", "--out", "out"]
    trials = tmp_path / "out" / "trials"

    hold(tmp_path, "out/trials/0001/run")
    with start(*options, cwd=tmp_path, code=code) as process:
        wait_for(tmp_path / "held", process)
        kill(process, tmp_path / "out")
    first = (trials / "0000" / "result.json").read_bytes()
    assert not (trials / "0001" / "result.json").exists()

    hold(tmp_path, "out/trials/0002/run")
    with start(*options, cwd=tmp_path, code=code) as process:
        wait_for(tmp_path / "held", process)
        output = interrupt(process)
    assert "interrupted; continue with: ddn sweep --resume out" in output
    assert [row["state"] for row in table(tmp_path / "out/results.csv")] == ["finished", "finished", "waiting"]

    release(tmp_path)
    (tmp_path / "c.toml").unlink()  # the folder has all that is needed
    monkeypatch.setattr(trials_process, "_CHILD", child)
    result = sweep("--resume", "out", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    assert (trials / "0000" / "result.json").read_bytes() == first
    assert {path.read_text() for path in trials.glob("*/run/sittings")} == {"begun "}  # each was begun anew
    rows = table(tmp_path / "out/results.csv")
    assert [(row["state"], row["seed"]) for row in rows] == [("finished", str(seed)) for seed in (5, 6, 7)]
    assert [float(row["train_loss"]) for row in rows] == [1 / 5, 1 / 6, 1 / 7]
    assert f"{1 / 6:.4g}" in result.stdout
    assert f"{1 / 7:.4g} to {1 / 5:.4g}" in result.stdout
    assert "3 of 3" in result.stdout


def test_children_hold_the_lock_of_the_folder(tmp_path, monkeypatch):
    """A command that was killed leaves the folder locked until its trials have ended, too."""
    started = {}
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: started.update(options))
    with opened(tmp_path / "s", plan(tmp_path, seeds=2)) as folder:
        Process.start(task(tmp_path, tmp_path / "c.toml"), None, 1, folder.lock)
        (descriptor,) = started["pass_fds"]
        assert os.path.sameopenfile(descriptor, folder.lock)
        assert os.fstat(descriptor).st_ino == (tmp_path / "s" / "lock").stat().st_ino


def test_a_trial_that_takes_too_long_is_stopped(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG)
    options = ["--random", f"{DAMPING}=log:0.1..10.0", "--trials", "1", "--timeout", "0.001"]
    result = sweep("c.toml", *options, cwd=tmp_path)
    assert result.exit_code == 1  # none finished
    assert "stopped after 0.001 s" in result.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("sweep-c-")
    (row,) = table(folder / "results.csv")
    assert row["state"] == "timed out"
    assert 0.1 <= float(row[DAMPING]) <= 10.0
    assert not (folder / "best.json").exists()


def test_errors_are_told_before_anything_is_written(tmp_path):
    (tmp_path / "c.toml").write_text(CONFIG)
    result = sweep("c.toml", "--grid", "groups.0.damping.valeu=1", "--out", "out", cwd=tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: with groups.0.damping.valeu=1: c.toml: 1 error\n")
    assert sweep("c.toml", "--grid", "groups.0.lr=1", "--seed", "3", cwd=tmp_path).exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


def test_the_last_line_of_a_huge_file_is_read_from_its_end(tmp_path):
    file = tmp_path / "errors.log"
    with file.open("wb") as errors:
        errors.truncate(1 << 40)  # it takes no room on the disk, and would not fit into memory
        errors.seek(0, os.SEEK_END)
        errors.write("\nthe größte error  \n\n".encode())
    assert last_line(file) == "the größte error"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", None),
        (b" \n\n", None),
        (b"one\ntwo\n", "two"),
        (b"\xff\n", "�"),
        (b"x" * 10**6, "x" * 999 + "…"),
    ],
    ids=["empty", "blank", "two", "no-text", "long"],
)
def test_last_lines(content, line, tmp_path):
    (tmp_path / "errors.log").write_bytes(content)
    assert last_line(tmp_path / "errors.log") == line
