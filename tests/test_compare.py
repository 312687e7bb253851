"""`ddn compare`: the statistics against their definitions, and the command with real trials."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ddn_core.errors import ArgumentError, DdnError
from ddn_core.plugins.registry import installed_registry
from ddn_core.runs import Comparison, EvaluationEvent, RunRecord, Target
from ddn_core.runs.scores import Score
from ddn_core.runs.significance import holm, pairings, sign_test, statement
from ddn_core.trials import process as trials_process
from ddn_core.trials.comparison import ComparisonPlan, Contest, leaderboard
from ddn_core.trials.folder import TrialFolder
from ddn_core.trials.process import Result
from tests.commands import forked_trials
from tests.test_readme import ELSEWHERE, run_python
from tests.trial_helpers import (
    code_with,
    ddn,
    hold,
    install_damping,
    interrupt,
    kill,
    release,
    start,
    trainer,
    wait_for,
)
from tests.trial_helpers import table as rows

# The same data for all


class Watched:
    """Batches that are noted as they are drawn."""

    def __init__(self, batches):
        self.batches = batches
        self.seen = []

    def __iter__(self):
        for batch in self.batches:
            self.seen.append(tuple(tensor.clone() for tensor in batch))
            yield batch


class Noisy:
    """Batches of a loader that shuffles by torch's own generator, with noise that is drawn from it for each batch."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        for X, y in self.loader:
            yield X + torch.rand_like(X), y


NEWTON = {
    "curvature": {"kind": "ggn-mc"},  # without a seed: from torch's own generator
    "groups": [{"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant"}, "lr": 0.1}],
}


@pytest.mark.parametrize("noisy", [False, True])
def test_every_optimizer_starts_from_the_same_model_and_sees_the_same_batches(noisy):
    """Whatever random numbers its steps take, and however often it is evaluated."""
    from ddn_core.config import parse_config
    from ddn_core.plugins.problem import ProblemParts
    from ddn_core.training.loop import Training
    from ddn_core.training.stepping import stepper_of

    def trained(table, **training):
        config = parse_config({"problem": {"kind": "digits-mlp"}, "training": {"epochs": 3, **training}, **table})
        torch.manual_seed(config.training.seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))
        data = TensorDataset(torch.rand(20, 4), torch.randint(0, 3, (20,)))
        loader = DataLoader(data, batch_size=5, shuffle=True)
        batches = Watched(Noisy(loader) if noisy else loader)
        parts = ProblemParts(model, nn.CrossEntropyLoss(), batches, DataLoader(data, batch_size=5, shuffle=True))
        begin = [parameter.detach().clone() for parameter in model.parameters()]
        losses = [
            event.loss
            for event in Training(config, parts, stepper_of(config, parts, "c")).events()
            if hasattr(event, "loss")
        ]
        return begin, batches.seen, losses

    begin, seen, losses = trained(NEWTON)
    assert len(seen) == 12
    assert not torch.equal(seen[0][0], seen[4][0])  # the epochs differ
    for table, training in (
        ({"optimizer": {"kind": "adam"}}, {}),
        ({"optimizer": {"kind": "sgd", "lr": 0.1}}, {"evaluate_every": 1}),
    ):
        other_begin, other_seen, other_losses = trained(table, **training)
        assert all(map(torch.equal, begin, other_begin))
        assert all(torch.equal(X, U) and torch.equal(y, v) for (X, y), (U, v) in zip(seen, other_seen, strict=True))
        assert losses[0] == other_losses[0]
        assert losses[1] != other_losses[1]
    assert not torch.equal(trained(NEWTON, seed=1)[1][0][0], seen[0][0])


# Significance


@given(st.integers(0, 9), st.integers(0, 9))
def test_the_sign_test_is_the_share_of_coin_tosses_that_are_as_uneven(wins, losses):
    coins, uneven = wins + losses, abs(wins - losses)
    heads = map(int.bit_count, range(2**coins))  # every toss of all coins, each bit a coin
    as_uneven = sum(abs(2 * count - coins) >= uneven for count in heads)
    assert sign_test(wins, losses) == pytest.approx(as_uneven / 2**coins, abs=1e-15)


@given(st.lists(st.floats(0, 1), max_size=7))
def test_holm_rejects_what_its_definition_rejects(values):
    """Step down: the smallest at level/m, the next at level/(m-1), until one is not rejected."""
    adjusted = holm(values)
    for level in [*adjusted, 0.01, 0.05, 0.3]:
        if level >= 1:
            continue
        rejected, left = set(), len(values)
        for index in sorted(range(len(values)), key=lambda k: values[k]):
            if values[index] * left > level:
                break
            rejected.add(index)
            left -= 1
        assert {index for index, value in enumerate(adjusted) if value <= level} == rejected


gaps = st.one_of(st.none(), st.integers(-1, 1))


@given(st.lists(gaps, min_size=1, max_size=8), st.booleans())
def test_pairs_are_counted_by_seed(differences, maximize):
    seeds = range(len(differences))
    best = dict.fromkeys(seeds, 5.0)
    other = {seed: 5.0 + gap for seed, gap in zip(seeds, differences, strict=True) if gap is not None}
    (one,) = pairings("best", {"other": other, "best": best}, seeds, maximize)
    signs = [-gap if maximize else gap for gap in differences if gap is not None]
    assert (one.better, one.worse, one.equal) == (signs.count(1), signs.count(-1), signs.count(0))
    assert one.left_out == differences.count(None)
    assert one.p == one.adjusted == sign_test(signs.count(1), signs.count(-1))
    assert statement([one], maximize)


def values(*numbers):
    return {seed: number for seed, number in enumerate(numbers) if number is not None}


def said(table, seeds=5, maximize=False):
    return statement(pairings(next(iter(table)), table, range(seeds), maximize), maximize)


def test_what_is_said_of_chance():
    low, high = values(1, 1, 1, 1, 1), values(2, 3, 4, 5, 6)
    assert said({"ddn": low, "adam": high}) == (
        "adam is higher than ddn in 5 of 5 seeds (sign test, p = 0.0625). With 5 seeds the smallest p this test can "
        "give is 0.0625: no difference can be called significant at 5 % from these runs alone."
    )
    assert "adam is higher than ddn in 5 of 5 seeds (sign test, p = 0.0625, Holm-adjusted 0.125)." in said(
        {"ddn": low, "adam": high, "sgd": high}
    )
    assert "adam is lower than ddn in 5 of 5" in said({"ddn": high, "adam": low}, maximize=True)
    assert said({"ddn": values(1), "adam": values(2)}, 1) == (
        "adam is higher than ddn in 1 of 1 seed. One seed says nothing about chance."
    )
    assert "in 3 of 4 seeds (1 equal, sign test, p = 0.25, 1 left out: no value)" in said(
        {"ddn": low, "adam": values(1, 2, 2, 2, None)}
    )
    many, more = dict.fromkeys(range(8), 1.0), dict.fromkeys(range(8), 2.0)
    assert said({"ddn": many, "adam": more}, 8).endswith("Significant at 5 %: adam.")
    assert said({"ddn": many, "adam": {**more, 0: 0.0, 1: 0.0}}, 8).endswith("No difference is significant at 5 %.")
    assert "The best was chosen by the same runs" in said({"ddn": many, "adam": more, "sgd": more}, 8)
    few = {name: dict.fromkeys(range(6), rank) for rank, name in enumerate("abc")}
    assert "0.0312, and 0.0625 after the adjustment for 2 comparisons: no difference can" in said(few, 6)
    assert "nothing can be said" in said({"ddn": values(1), "adam": {}}, 1)
    assert "no seed in common" in said({"ddn": low, "adam": high, "sgd": {}})
    assert "nothing can be said" in statement([], False)


# Rankings


def evaluation(epoch, loss, accuracy=0.5, ends=True, step=None, seconds=None):
    step = 10 * epoch if step is None else step
    seconds = float(step) if seconds is None else seconds
    return EvaluationEvent(epoch, step, loss, 2 * loss, {"accuracy": accuracy}, None, seconds, seconds / 2, ends)


def run(seed, *events, finished=True):
    return Score(seed, finished, events)


nan, inf = math.nan, math.inf


def test_ranking():
    target = Target.of_text("train_loss=0.5")
    scores = {
        "diverged": {0: run(0, evaluation(1, 0.4), evaluation(2, nan)), 1: run(1, evaluation(1, inf))},
        "slow": {0: run(0, evaluation(1, 1.0), evaluation(2, 0.3)), 1: run(1, evaluation(1, 0.9), evaluation(2, 0.8))},
        "gone": {},
        "cut": {0: run(0, evaluation(1, 0.01)), 1: run(1, evaluation(1, 0.01), finished=False)},
        "fast": {
            0: run(0, evaluation(1, 0.5, step=4, ends=False), evaluation(1, 0.1), evaluation(2, 0.2)),
            1: run(1, evaluation(1, 0.3), evaluation(2, 0.4)),
        },
    }
    made = Comparison.of_scores(scores, [target], seeds=[0, 1])
    assert [one.name for one in made.ranking] == ["fast", "slow", "cut", "diverged", "gone"]
    fast, slow, cut, diverged, gone = made.ranking
    assert (fast.final("train_loss").median, fast.final("train_loss").low) == (pytest.approx(0.3), 0.2)
    assert fast.final("test_loss").text() == "0.6 [0.4..0.8]"
    assert fast.best("train_loss").values == (0.1, 0.3)
    assert fast.best_epoch("train_loss").values == (1, 1)
    assert fast.until(target, "step").values == (4, 10)
    assert fast.until(target, "step_seconds").median == 3.5
    assert (slow.reached(target), slow.until(target, "epoch").median) == (1, inf)  # half of them is not enough
    assert slow.until(target, "epoch").text() == "never [2..never]"
    assert slow.until(target, "epoch").table() == {"median": None, "low": 2.0, "high": None, "values": 1, "seeds": 2}
    assert (cut.finished, diverged.finished, gone.finished) == (1, 2, 0)
    assert diverged.final("train_loss").text() == gone.cost("step").text() == "-"
    assert gone.until(target, "step").values == (inf, inf)
    assert made.best == fast
    assert [(one.other, one.pairs, one.left_out) for one in made.pairings] == [
        ("slow", 2, 0),
        ("cut", 1, 1),
        ("diverged", 0, 2),
        ("gone", 0, 2),
    ]
    upwards = Comparison.of_scores(scores, metric="accuracy", maximize=True)
    assert upwards.metrics[0] == "accuracy"
    nothing = Comparison.of_scores({"a": {}, "b": {}}, [target])
    assert (nothing.best, nothing.metrics, nothing.pairings) == (None, [], [])
    assert "<table>" in nothing._repr_html_()


@given(st.lists(st.one_of(st.none(), st.integers(1, 9)), min_size=1, max_size=7))
def test_a_median_is_reached_if_more_than_half_of_the_seeds_did(epochs):
    target = Target.of_text("accuracy>=1")
    scores = {
        seed: run(seed, *(evaluation(k, 1.0, float(k == epoch)) for k in range(1, 10)))
        for seed, epoch in enumerate(epochs)
    }
    median = Comparison.of_scores({"a": scores}, [target]).ranking[0].until(target, "epoch").median
    reached = [epoch for epoch in epochs if epoch is not None]
    assert (median < inf) == (2 * len(reached) > len(epochs))
    if len(reached) == len(epochs):
        assert median == statistics.median(reached)


def test_a_config_with_a_seed_that_diverged_is_last_and_not_the_best():
    steady = {seed: run(seed, evaluation(1, 0.5)) for seed in range(3)}
    good = {seed: run(seed, evaluation(1, 0.1)) for seed in range(2)}
    exploded = {2: Score(2, finished=False, evaluations=(evaluation(1, 0.01),), diverged_at=24)}
    scores = {"exploded": good | exploded, "steady": steady, "cut": good}
    made = Comparison.of_scores(scores, seeds=range(3))
    assert [one.name for one in made.ranking] == ["steady", "cut", "exploded"]
    assert made.best.name == "steady"
    last = made.ranking[-1]
    assert (last.finished, last.diverged, last.diverged_text) == (2, {2: 24}, "seed 2 diverged at step 24")
    assert made.rows()[1][-1][1] == "2 of 3; seed 2 diverged at step 24"
    asked = Comparison.of_scores(scores, seeds=range(3), allow_diverged=True)
    assert [one.name for one in asked.ranking] == ["exploded", "steady", "cut"]
    assert asked.best.name == "exploded"
    alone = Comparison.of_scores({"exploded": good | exploded}, seeds=range(3))
    assert alone.best is None
    assert alone.statement == "No config is the best: every config that was measured has a seed that diverged."
    table = leaderboard(made, [])
    assert [one["diverged"] for one in table["standings"]] == [{}, {}, {"2": 24}]


def test_html_is_escaped():
    scores = {"<script>": {0: run(0, evaluation(1, 1.0))}, "b": {0: run(0, evaluation(1, 2.0))}}
    text = Comparison.of_scores(scores, [Target.of_text("train_loss<=1")])._repr_html_()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "steps to train loss &lt;= 1.0" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train_loss=0.1", Target("train_loss", 0.1, False)),
        ("accuracy = 0.95", Target("accuracy", 0.95, True)),
        ("absolute error<=1e-3", Target("absolute error", 1e-3, False)),
        ("x>=0.123456789", Target("x", 0.123456789, True)),
    ],
)
def test_targets(text, expected):
    assert Target.of_text(text) == expected
    assert Target.of_text(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "train_loss", "=1", "train_loss=", "train_loss=nan", "a=inf", "a=b", "a==1"])
def test_what_is_no_target(text):
    with pytest.raises(ArgumentError, match="is not a target"):
        Target.of_text(text)


# The plan


NEWTON_TOML = """
problem = { kind = "digits-mlp", hidden = [8], batch_size = 256 }
training = { epochs = 2, seed = 5 }
[[groups]]
params = ["*"]
criterion = { kind = "top-k", k = 5 }
damping = { kind = "constant", value = 1.0 }
"""
ADAM_TOML = """
problem = { kind = "digits-mlp", hidden = [8], batch_size = 256 }
training = { epochs = 2, seed = 70 }
optimizer = { kind = "adam", lr = 0.01 }
"""


def plan(place, *texts, **options):
    paths = []
    for index, text in enumerate(texts):
        paths.append(place / str(index) / "c.toml")
        paths[-1].parent.mkdir()
        paths[-1].write_text(text)
    return ComparisonPlan.of(Contest(paths, **options), installed_registry())


def test_a_plan_has_the_same_seeds_for_all(tmp_path):
    made = plan(tmp_path, NEWTON_TOML, ADAM_TOML, ADAM_TOML, seeds=2, overrides=["training.epochs=3"])
    assert made.trials == [("c", 5), ("c-2", 5), ("c-3", 5), ("c", 6), ("c-2", 6), ("c-3", 6)]
    task = made.tasks(tmp_path)[4]
    assert (task.run, task.resumes) == (tmp_path / "runs/c-2/seed-6", True)
    assert task.overrides == ("training.epochs=3", "training.seed=6")
    assert ComparisonPlan.model_validate_json(made.model_dump_json()) == made
    assert made.differences(made) == list(made.notes) == []


def test_notes_tell_what_else_differs(tmp_path):
    other = ADAM_TOML.replace("256", "128").replace("epochs = 2", 'epochs = 4, evaluate_every = 3, dtype = "float64"')
    notes = plan(tmp_path, NEWTON_TOML, other).notes
    assert [note.partition(" (")[2] for note in notes] == [
        "c 256, c-2 128)",
        "c 2, c-2 4)",
        "c none, c-2 3)",
        "c float32, c-2 float64)",
    ]
    (tmp_path / "one").mkdir()
    assert "only one config" in plan(tmp_path / "one", ADAM_TOML).notes[0]


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        (
            ADAM_TOML.replace("[8]", "[9]"),
            {},
            "different problems, .*\n  c-2: problem.hidden: \\[9\\], but \\[8\\] in c",
        ),
        (ADAM_TOML.replace("digits-mlp", "digits-cnn").replace("hidden = [8], ", ""), {}, "problem.kind: 'digits-cnn'"),
        (ADAM_TOML.replace("0.01", "-1.0"), {}, "optimizer.lr"),
        (ADAM_TOML, {"overrides": ["training.epoch=1"]}, "Did you mean 'epochs'"),
        (ADAM_TOML, {"overrides": [f"training.seed={2**63 - 2}"]}, f"with training.seed={2**63}: c.toml"),
        (ADAM_TOML.replace("problem", "#"), {}, "problem: is missing"),
    ],
)
def test_what_cannot_be_compared(tmp_path, other, options, message):
    with pytest.raises(DdnError, match=message):
        plan(tmp_path, NEWTON_TOML, other, **options)


# Real processes


def compare(*arguments, cwd):
    return ddn("compare", *arguments, cwd=cwd, columns=80)


def events(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in lines]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A finished comparison; the runs of one config failed."""
    place = tmp_path_factory.mktemp("compare")
    (place / "newton.toml").write_text(NEWTON_TOML)
    (place / "adam.toml").write_text(ADAM_TOML.replace("seed = 70", "evaluate_every = 5"))  # the steps of an epoch
    (place / "broken.toml").write_text("curvature = { subsampling_ggn = [999] }\n" + NEWTON_TOML)
    options = ["newton.toml", "adam.toml", "broken.toml", "--seeds", "2", "--out", "out"]
    options += ["--target", "accuracy=0.2", "--target", "train_loss=1e-9"]
    with forked_trials():
        result = compare(*options, cwd=place)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return place, options, result.stdout


@pytest.mark.xdist_group("forked")
def test_a_comparison_and_its_tables(compared):
    place, _, output = compared
    runs = rows(place / "out/results.csv")
    assert [(row["config"], row["seed"]) for row in runs] == list(product(["newton", "adam", "broken"], "5"))[:3] + [
        (name, "6") for name in ("newton", "adam", "broken")
    ]
    assert [row["state"] for row in runs] == ["finished", "finished", "failed"] * 2
    assert "subsampling_ggn has index 999" in runs[2]["error"]
    curves = rows(place / "out/curves.csv")
    for row in runs:
        there = [one for one in curves if (one["config"], one["seed"]) == (row["config"], row["seed"])]
        if row["state"] == "failed":
            assert not there
            continue
        record = RunRecord.read(place / "out/runs" / row["config"] / f"seed-{row['seed']}")
        assert record.config["training"]["seed"] == int(row["seed"])
        assert [float(one["train_loss"]) for one in there] == [event.train_loss for event in record.evaluations]
        assert [float(one["seconds"]) for one in there] == [event.seconds for event in record.evaluations]
        assert len(there) == (4 if row["config"] == "adam" else 2)
        last = record.epochs[-1]
        assert float(row["final_train_loss"]) == last.train_loss
        assert float(row["best_accuracy"]) == max(event.test_metrics["accuracy"] for event in record.epochs)
        assert (int(row["epochs"]), int(row["steps"]), float(row["seconds"])) == (2, last.step, last.seconds)
        assert row["steps to train_loss <= 1e-09"] == ""
    board = json.loads((place / "out/leaderboard.json").read_text())
    first, second, last = board["standings"]
    assert (last["config"], last["finished"], last["final"]["train_loss"]["median"]) == ("broken", 0, None)
    losses = [float(row["final_train_loss"]) for row in runs if row["config"] == first["config"]]
    assert first["final"]["train_loss"]["median"] == statistics.median(losses)
    assert first["targets"]["train_loss <= 1e-09"]["reached"] == 0
    assert {one["other"] for one in board["pairings"]} == {second["config"], "broken"}
    assert board["statement"].split() == output[output.index(board["statement"][:20]) :].partition("runs:")[0].split()
    assert "2 trials failed" in output
    assert "to train_loss <= 1e-09" in output
    table = output[output.index("2 trials failed") : output.index("runs:")]
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.xdist_group("forked")
def test_the_end_of_an_epoch_has_a_training_loss_if_its_last_step_was_evaluated(compared):
    place, _, _ = compared
    inner, end, *_ = RunRecord.read(place / "out/runs/adam/seed-5").evaluations
    assert (inner.ends_epoch, end.ends_epoch) == (False, True)
    assert inner.step == end.step
    assert inner.train_loss == end.train_loss


@pytest.mark.xdist_group("forked")
def test_a_seed_begins_alike_in_every_config(compared):
    """The same parameters and the same batch: the same loss before the first step, bit by bit."""
    place, _, _ = compared
    first = {
        (name, seed): events(place / f"out/runs/{name}/seed-{seed}")[0]["loss"]
        for name in ("newton", "adam")
        for seed in (5, 6)
    }
    assert first["newton", 5] == first["adam", 5] != first["newton", 6] == first["adam", 6]


@pytest.mark.xdist_group("forked")
def test_the_documentation_reads_a_comparison_back(compared, tmp_path, monkeypatch):
    place, _, _ = compared
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    (tmp_path / "runs" / "digits" / "runs").symlink_to(place / "out" / "runs")
    namespace = run_python(ELSEWHERE[0].read_text(), "compare.md")
    assert {one.name for one in namespace["comparison"].ranking} == {"newton", "adam", "broken"}


@pytest.mark.xdist_group("forked")
def test_another_metric_only_ranks_anew_and_another_comparison_is_refused(compared, tmp_path):
    place, options = shutil.copytree(compared[0], tmp_path / "copy"), compared[1]
    before = {path: path.read_bytes() for path in (place / "out/runs").rglob("*") if path.is_file()}
    result = compare("--resume", "out", "--metric", "accuracy", "--maximize", "--target", "test_loss=2.0", cwd=place)
    assert result.exit_code == 0, result.stderr
    assert "6 trials, 6 of them have ended" in result.stdout
    assert "accuracy after the last epoch, more is better" in result.stdout
    assert "to test_loss <= 2.0" in result.stdout
    for arguments, message in (
        (["--resume", "out", "--metric", "acuracy"], "--metric: no trial has 'acuracy'; the trials have train_loss"),
        (["--resume", "out", "--metric", "train_loss", "--target", "acuracy=1"], "--target: no trial has 'acuracy'"),
        (["--resume", "out", "--seeds", "2"], "--resume continues the comparison in its folder. Leave out CONFIG"),
        (["--resume", "."], "holds no comparison"),
        ([], "name the CONFIGs"),
        (
            [*options[:2], "--seeds", "3", "--out", "out"],
            "the configs: newton, adam, broken in the folder, newton, adam now",
        ),
        ([*options[:2], "--out", "."], "is not empty, and holds no comparison"),
        ([*options[:2], "--target", "x"], "'x' is not a target"),
    ):
        result = compare(*arguments, cwd=place)
        assert result.exit_code == 1
        assert message in result.stderr
    assert before == {path: path.read_bytes() for path in (place / "out/runs").rglob("*") if path.is_file()}


@pytest.mark.xdist_group("forked")
def test_if_all_fail_the_status_says_so(tmp_path):
    (tmp_path / "c.toml").write_text("curvature = { subsampling_ggn = [999] }\n" + NEWTON_TOML)
    with forked_trials():
        result = compare("c.toml", "--seeds", "1", cwd=tmp_path)
    assert result.exit_code == 1, result.stderr
    assert "1 trial failed" in result.stdout
    assert "subsampling_ggn has index" in result.stdout
    assert "nothing to compare it with" in result.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("compare-")
    assert [row["config"] for row in rows(folder / "results.csv")] == ["c"]


def test_a_comparison_that_is_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    (tmp_path / "newton.toml").write_text(NEWTON_TOML)
    (tmp_path / "adam.toml").write_text(ADAM_TOML)
    child = trainer(tmp_path)
    options = ["compare", "adam.toml", "newton.toml", "--seeds", "2", "--jobs", "1", "--out", "out"]

    hold(tmp_path, "out/runs/newton/seed-70")
    with start(*options, cwd=tmp_path, code=code_with(child)) as process:
        wait_for(tmp_path / "held", process)
        kill(process, tmp_path / "out")
    (tmp_path / "out/trials/adam/seed-70/result.json").unlink()  # as if it had been killed a moment earlier

    hold(tmp_path, "out/runs/adam/seed-71")
    with start(*options, cwd=tmp_path, code=code_with(child)) as process:
        wait_for(tmp_path / "held", process)
        output = interrupt(process)
    assert "interrupted; continue with: ddn compare --resume out" in output
    states = [row["state"] for row in rows(tmp_path / "out/results.csv")]
    assert states == ["finished", "finished", "waiting", "waiting"]

    release(tmp_path)
    monkeypatch.setattr(trials_process, "_CHILD", child)
    result = compare("--resume", "out", cwd=tmp_path)
    assert result.exit_code == 0, result.stderr
    assert [row["state"] for row in rows(tmp_path / "out/results.csv")] == ["finished"] * 4
    sittings = {
        f"{path.parent.parent.name}/{path.parent.name}": path.read_text()
        for path in (tmp_path / "out/runs").glob("*/*/sittings")
    }
    assert sittings == {
        "adam/seed-70": "begun ",  # it had ended
        "newton/seed-70": "begun resumed ",
        "adam/seed-71": "begun resumed ",
        "newton/seed-71": "begun ",
    }


@pytest.mark.slow
def test_what_was_cut_off_is_gone_on_with(tmp_path):
    """Killed, interrupted, and killed after the end of a run: the runs end as those that were never cut off."""
    newton_toml = NEWTON_TOML.replace("epochs = 2, seed = 5", "epochs = 3, seed = 5, checkpoint_seconds = 0")
    held_toml = newton_toml.replace('{ kind = "constant", value = 1.0 }', '{ kind = "held/constant" }')
    assert held_toml != newton_toml
    (tmp_path / "newton.toml").write_text(held_toml)
    (tmp_path / "whole.toml").write_text(newton_toml)
    (tmp_path / "adam.toml").write_text(ADAM_TOML.replace("seed = 70", "seed = 5"))
    site = install_damping(tmp_path / "site")
    runs, trials = tmp_path / "out/runs", tmp_path / "out/trials"
    options = ["compare", "adam.toml", "newton.toml", "--seeds", "1", "--jobs", "2", "--out", "out"]

    newton = runs / "newton/seed-5"
    hold(tmp_path, 5)
    with start(*options, cwd=tmp_path, path=site) as process:
        wait_for(trials / "adam/seed-5/result.json", process)
        wait_for(tmp_path / "held", process)
        kill(process, tmp_path / "out")
    assert len(events(newton)) == 4  # steps
    before = (runs / "adam/seed-5/checkpoint.pt").stat().st_mtime_ns
    (trials / "adam/seed-5/result.json").unlink()  # as if it had been killed a moment earlier
    begun = newton.stat().st_ino

    hold(tmp_path, 4)
    with start(*options, cwd=tmp_path, path=site) as process:
        wait_for(tmp_path / "held", process)
        output = interrupt(process)
    assert "interrupted; continue with: ddn compare --resume out" in output
    assert sum(event["event"] == "step" for event in events(newton)) == 4 + 3
    assert [row["state"] for row in rows(tmp_path / "out/results.csv")] == ["finished", "waiting"]
    assert not (newton / "checkpoint.pt").exists()

    release(tmp_path)
    with start("compare", "--resume", "out", cwd=tmp_path, path=site) as process:
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert [row["state"] for row in rows(tmp_path / "out/results.csv")] == ["finished", "finished"]
    assert newton.stat().st_ino == begun  # the folder was never begun anew
    assert (runs / "adam/seed-5/checkpoint.pt").stat().st_mtime_ns == before
    assert ddn("train", "whole.toml", "--out", "whole", cwd=tmp_path).exit_code == 0
    assert events(newton) == events(tmp_path / "whole")


@pytest.mark.parametrize(("state", "kept"), [("failed", False), ("timed out", True)])
def test_a_run_that_failed_begins_anew_and_one_that_was_cut_off_does_not(tmp_path, state, kept):
    made = plan(tmp_path, NEWTON_TOML, seeds=1)
    (task,) = made.tasks(tmp_path / "out")
    folder = TrialFolder(tmp_path / "out", None)
    assert folder.prepare(task)
    task.run.mkdir()
    (task.run / "config.resolved.json").write_text("{}")
    folder.keep(task, Result(state=state, exit_status=1, seconds=1))
    assert folder.prepare(task)
    assert (task.run / "config.resolved.json").exists() == kept
    assert not (task.place / "result.json").exists()
    (task.run / "x").parent.mkdir(exist_ok=True)
    (task.run / "config.resolved.json").unlink(missing_ok=True)
    (task.run / "half").write_text("")
    assert folder.prepare(task)
    assert not task.run.exists()  # a run that had not begun


@pytest.mark.xdist_group("forked")
def test_the_report_has_the_leaderboard_first_and_then_the_curves(compared):
    place, _, output = compared
    text = (place / "out/report.html").read_text(encoding="utf-8")
    assert text.index(">Leaderboard</h2>") < text.index(">Learning curves</h2>")
    assert "the smallest p this test can give" in text
    assert "report: out/report.html" in output.replace("\n", "")
