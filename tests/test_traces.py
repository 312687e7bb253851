"""Recorded curvature: what is written, that the run is the same, and what strategies do on it."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ddn_core import DirectionalDampedNewton
from ddn_core.api import Context, Damping, Directions
from ddn_core.config import RecordConfig, load_config, parse_config
from ddn_core.errors import ArgumentError, ConfigError, CurvatureError, NonFiniteError, StrategyError
from ddn_core.testing import dense_ggn, dense_twin, digits_trace, per_sample_gradients, typical_directions
from ddn_core.traces import RECORDED, DampedChoice, Recorder, Trace, expected_decrease, halves, replay, signal_to_noise
from tests.profiles import examples

ALL = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 0.5}}
TWO = [{**ALL, "params": ["0.*"]}, {**ALL, "criterion": {"kind": "top-k", "k": 2}, "lr": 0.5}]


def setting(groups, reduction="mean", **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    loss_function = nn.CrossEntropyLoss(reduction=reduction)
    X, y = torch.rand(8, 5, dtype=torch.float64), torch.randint(0, 3, (8,))
    return model, loss_function, X, y, DirectionalDampedNewton(model.named_parameters(), groups, **settings)


def passed(model, loss_function, X, y, optimizer):
    optimizer.zero_grad()
    with optimizer.curvature():
        loss = loss_function(model(X), y)
        loss.backward()
    return loss.item()


def trained(folder, groups, steps, settings=None, **options):
    """Train a few steps, record them, and return the trace and the parameters."""
    model, loss_function, X, y, optimizer = setting(groups, **options)
    recorder = None if folder is None else Recorder(folder, settings)
    for _ in range(steps):
        loss = passed(model, loss_function, X, y, optimizer)
        if recorder is not None:
            recorder.record(optimizer, loss, last=steps - 1)
        optimizer.step()
    parameters = [parameter.detach().clone() for parameter in model.parameters()]
    return (None if folder is None else Trace.read(folder)), parameters


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_what_is_recorded_is_what_autograd_says(tmp_path, reduction):
    model, loss_function, X, y, optimizer = setting([ALL], reduction)
    twin = dense_twin(model, loss_function, X, y)
    loss = passed(model, loss_function, X, y, optimizer)
    assert Recorder(tmp_path / "trace").record(optimizer, loss)
    optimizer.step()
    (step,) = Trace.read(tmp_path / "trace")
    (group,) = step.groups
    found, count = group.directions, len(group.directions)
    assert step.entry.loss == loss
    torch.testing.assert_close(found.evals, twin.evals[-count:])
    torch.testing.assert_close(found.gammas.abs(), twin.gammas[:, -count:].abs())
    torch.testing.assert_close(found.lambdas, twin.lambdas[:, -count:])
    identity = torch.eye(count, dtype=torch.float64)
    torch.testing.assert_close(found.evecs.T @ found.evecs, identity, atol=1e-6, rtol=0)
    context = found.context
    assert (context.step, context.outputs, context.samples, context.parameters) == (0, 3, 8, 57)
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert context.gradient_norm == pytest.approx(float(gradient.norm()))
    report = optimizer.last_step[0]
    assert len(group.kept) == len(report.evals) == count
    torch.testing.assert_close(group.deltas, torch.full_like(found.evals, 0.5))
    choice = DampedChoice(found, group.kept, group.deltas)
    assert choice.predicted_decrease == pytest.approx(report.predicted_decrease)
    assert choice.step_norm == pytest.approx(float(report.step_norm))


@pytest.mark.parametrize(
    "groups",
    [[ALL], TWO, [{**ALL, "weight_decay": 0.1, "momentum": 0.5}], [{**ALL, "memory": 0.9}], [{**ALL, "every": 3}]],
    ids=["solved", "two groups", "decay", "memory", "reused"],
)
def test_a_recorded_run_is_the_same(tmp_path, groups):
    trace, recorded = trained(tmp_path / "trace", groups, 7)
    _, plain = trained(None, groups, 7)
    assert all(torch.equal(one, other) for one, other in zip(recorded, plain, strict=True))
    numbers = [step.entry.step for step in trace]
    assert numbers == ([0, 6] if "every" in groups[0] else [0, 1, 2, 5, 6])
    assert all(len(step.groups) == len(groups) for step in trace)


def test_what_was_chosen_is_recorded(tmp_path):
    trace, _ = trained(tmp_path / "trace", TWO, 1)
    first, second = trace.steps[0].groups
    assert len(first.kept) == len(first.directions) == first.entry.found
    assert second.kept.tolist() == [len(second.directions) - 2, len(second.directions) - 1]
    assert second.entry.criterion == {"kind": "top-k", "k": 2}
    assert second.entry.damping["value"] == 0.5
    assert (first.entry.lr, second.entry.lr) == (1.0, 0.5)
    assert first.entry.params == ("0.weight", "0.bias")


def test_leading_directions_are_recorded_and_the_kept_ones_among_them(tmp_path):
    trace, _ = trained(tmp_path / "trace", [ALL], 1, {"directions": 4})
    whole, _ = trained(tmp_path / "whole", [ALL], 1)
    part, every = trace.steps[0].groups[0], whole.steps[0].groups[0]
    torch.testing.assert_close(part.directions.evals, every.directions.evals[-4:])
    torch.testing.assert_close(part.directions.all_evals, every.directions.all_evals)
    assert part.kept.tolist() == [0, 1, 2, 3]
    assert part.entry.found == len(every.directions)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_steps_are_due_in_series(step, last):
    series = {digit * 10**power for digit in (1, 2, 5) for power in range(7)} | {0}
    recorder = object.__new__(Recorder)
    recorder._settings = RecordConfig()
    assert recorder.is_due(step, last) == (step in series or step == last)
    assert recorder.is_due(step) == (step in series)
    recorder._settings = RecordConfig(steps=sorted({3, last}))
    assert recorder.is_due(step, 7) == (step in (3, last))


def test_a_trace_keeps_to_its_size(tmp_path):
    trace, _ = trained(tmp_path / "trace", [ALL], 60, {"steps": list(range(60)), "megabytes": 0.04})
    files = sum(path.stat().st_size for path in (tmp_path / "trace").glob("*.safetensors"))
    headers = 1000 * len(trace)
    assert 0.02e6 < files == trace.index.bytes <= 0.04e6 + headers
    assert all(step.entry.bytes <= 0.04e6 / 8 + 1000 for step in trace)
    assert len(trace.steps[0].groups[0].directions) < trace.steps[0].groups[0].entry.found
    assert len(trace) + len(trace.index.left_out) == 60
    assert trace.index.left_out[0] > 3


def test_a_run_that_goes_on_forgets_what_comes_again(tmp_path):
    trained(tmp_path / "trace", [ALL], 6)
    recorder = Recorder(tmp_path / "trace")
    recorder.resume(2)
    assert [step.entry.step for step in Trace.read(tmp_path / "trace")] == [0, 1]
    assert len(list((tmp_path / "trace").glob("*.safetensors"))) == 2


def test_the_loss_after_a_step_is_noted(tmp_path):
    trained(tmp_path / "trace", [ALL], 1)
    recorder = Recorder(tmp_path / "trace")
    recorder.note_loss_after(0, 0.25)
    recorder.note_loss_after(1, 7.0)  # not recorded
    assert Trace.read(tmp_path / "trace").steps[0].entry.loss_after == 0.25


def test_directions_can_be_looked_at_before_a_step():
    model, loss_function, X, y, optimizer = setting([ALL, {**ALL, "params": ["none*"]}][:1])
    with pytest.raises(CurvatureError, match="needs a curvature pass"):
        optimizer.directions()
    passed(model, loss_function, X, y, optimizer)
    every, leading = optimizer.directions(), optimizer.directions(leading=3)
    torch.testing.assert_close(leading.evals, every.evals[-3:])
    assert len(every.eigenvectors()) == 4
    optimizer.step()
    with pytest.raises(CurvatureError):
        optimizer.directions()


def test_there_are_no_directions_of_fallbacks_and_of_reused_ones():
    groups = [{**ALL, "params": ["0.*"], "every": 2}]
    model, loss_function, X, y, optimizer = setting(groups, fallback={"kind": "sgd", "lr": 0.1})
    passed(model, loss_function, X, y, optimizer)
    assert len(optimizer.directions(0))
    with pytest.raises(ArgumentError, match="group 1 has no directions, since an optimizer of torch"):
        optimizer.directions(1)
    optimizer.step()
    passed(model, loss_function, X, y, optimizer)
    with pytest.raises(CurvatureError, match="group 0 reuses the directions"):
        optimizer.directions(0)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "There is no trace in .*: index.json is missing"),
        (lambda folder: (folder / "index.json").write_text("{}"), "is not an index of a trace"),
        (lambda folder: (folder / "step-00000000.safetensors").unlink(), "cannot be read: No such file"),
        (lambda folder: (folder / "step-00000000.safetensors").write_bytes(b"\0" * 100), "is damaged"),
        (lambda folder: (folder / "index.json").write_text(emptied(folder)), "holds no step"),
        (lambda folder: (folder / "index.json").write_text(regrouped(folder)), "does not match the index of the trace"),
    ],
)
def test_a_damaged_trace_is_an_error_that_names_the_file(tmp_path, harm, message):
    folder = tmp_path / "trace"
    trained(folder, [ALL], 1)
    harm(folder)
    with pytest.raises(ArgumentError, match=message):
        replay(folder, {})


def emptied(folder):
    return json.dumps({**json.loads((folder / "index.json").read_text()), "steps": []})


def regrouped(folder):
    return (folder / "index.json").read_text().replace('"group": 0', '"group": 5')


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / ".index.json.partial").write_text("{")
    recorder = Recorder(tmp_path)
    recorder.resume(0)
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]


def test_a_step_at_a_loss_that_is_not_finite_is_skipped_and_not_recorded(tmp_path):
    model, loss_function, X, y, optimizer = setting([ALL], step={"on_nonfinite": "skip"})
    recorder = Recorder(tmp_path / "trace")
    assert not recorder.record(optimizer, passed(model, loss_function, X * float("nan"), y, optimizer))
    with pytest.raises(NonFiniteError):
        optimizer.directions()
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert recorder.index.steps == ()


def test_a_folder_with_something_else_is_not_written_into(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ArgumentError, match="is not empty, and holds no trace"):
        Recorder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# What is read off directions.


def test_signal_to_noise_is_the_square_of_the_t_statistic():
    gammas = torch.tensor([[1.0, 2.0], [3.0, -2.0], [2.0, 0.0]])
    one = Directions.from_tensors(torch.ones(2), torch.eye(3)[:, :2], gammas, torch.ones(3, 2))
    t = 2.0 / (1.0 / math.sqrt(3))  # mean 2, standard deviation 1, three samples
    assert signal_to_noise(one).tolist() == pytest.approx([t**2, 0.0])
    single = Directions.from_tensors(torch.ones(1), torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    assert signal_to_noise(single).isnan().all()


def test_shares_and_decreases_are_those_of_each_direction():
    every = typical_directions(5, samples=8, outputs=2)
    kept, deltas = torch.tensor([4, 1]), torch.tensor([0.1, math.inf], dtype=torch.float64)
    choice = DampedChoice(every, kept, deltas, lr=0.5)
    gamma, curvature = float(every.loss_gammas[4]), float(every.loss_lambdas[4])
    length = -gamma / (curvature + 0.1)
    assert choice.shares().tolist() == [1.0, 0.0]
    decrease = -(0.5 * length * gamma + 0.5 * 0.25 * length**2 * curvature)
    assert choice.decreases().tolist() == pytest.approx([decrease, 0.0])
    assert choice.predicted_decrease == pytest.approx(decrease)
    assert choice.step_norm == pytest.approx(0.5 * abs(length))


def test_a_choice_of_nothing_moves_nowhere():
    every = typical_directions(5, samples=8, outputs=2)
    nothing = DampedChoice(every, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.float64))
    assert (nothing.step_norm, nothing.predicted_decrease) == (0.0, 0.0)
    assert nothing.shares().tolist() == []


# Held-out halves.


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_half_is_what_its_samples_alone_give(tmp_path, reduction, decay, seed):
    """Recorded on all samples, and then recorded on the half alone by the same model: the same directions."""
    group = {**ALL, "weight_decay": decay}
    model, loss_function, X, y, optimizer = setting([group], reduction)
    passed(model, loss_function, X, y, optimizer)
    every = optimizer.directions()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed)).tolist()
    ((first, second),) = halves(every, 1, seed, decay)
    for half, chosen in ((first, order[:4]), (second, order[4:])):
        passed(model, loss_function, X[chosen], y[chosen], optimizer)
        alone, scale = optimizer.directions(), 2.0 if reduction == "sum" else 1.0  # to as many as there were
        found = half.directions
        torch.testing.assert_close(found.evals, scale * alone.evals)
        torch.testing.assert_close(found.all_evals, scale * alone.all_evals, atol=1e-12, rtol=1e-6)
        twice = decay / 4 if reduction == "sum" else 0.0  # each sample's share of the decay is not scaled
        torch.testing.assert_close(found.lambdas, scale * alone.lambdas - twice)
        if not decay:
            torch.testing.assert_close(found.loss_gammas.abs(), scale * alone.loss_gammas.abs())
            torch.testing.assert_close(found.gammas.abs(), scale * alone.gammas.abs())
            torch.testing.assert_close(found.evecs.abs(), alone.evecs.abs())
        if reduction == "mean":
            assert found.context.gradient_norm == pytest.approx(alone.context.gradient_norm) or decay
            assert found.context.mean_curvature == pytest.approx(alone.context.mean_curvature)
        assert (found.context.samples, found.context.outputs) == (4, 3)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@examples(10)
@given(damping=st.floats(0.05, 10), lr=st.floats(0.1, 2), seed=st.integers(0, 1000))
def test_the_expected_decrease_is_that_of_the_quadratic_model_of_the_other_half(reduction, damping, lr, seed):
    """From dense matrices of autograd: the step of one half, the slope and the curvature of the other."""
    model, loss_function, X, y, optimizer = setting([ALL], reduction)
    passed(model, loss_function, X, y, optimizer)
    mean = nn.CrossEntropyLoss()  # of a sum: as many samples as there were
    size = 8 if reduction == "sum" else 1
    values = []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        order = torch.randperm(8, generator=generator).tolist()
        total = 0.0
        for own, other in ((order[:4], order[4:]), (order[4:], order[:4])):
            made, judge = (
                (dense_ggn(model, mean, X[part], y[part]) * size, flat_gradient(model, mean, X[part], y[part]) * size)
                for part in (own, other)
            )
            evals, vectors = torch.linalg.eigh(made[0])
            span = vectors[:, evals > 1e-10 * evals[-1]]
            step = (
                -lr
                * span
                @ torch.linalg.solve(
                    span.T @ made[0] @ span + damping * torch.eye(span.shape[1], dtype=torch.float64), span.T @ made[1]
                )
            )
            total -= float(judge[1] @ step + 0.5 * step @ judge[0] @ step)
        values.append(total / 2)

    def answer(one):
        return torch.arange(len(one)), torch.full_like(one.evals, damping)

    found, spread = expected_decrease(halves(optimizer.directions(), 2, seed), answer, lr)
    assert found == pytest.approx(sum(values) / 2, rel=1e-6, abs=1e-9)
    assert spread == pytest.approx(float(torch.tensor(values).double().std()), rel=1e-4, abs=1e-8)


def flat_gradient(model, loss_function, X, y):
    return per_sample_gradients(model, loss_function, X, y).mean(0)


def test_noise_is_expected_to_raise_the_loss_though_it_is_predicted_to_lower_it():
    """Labels at random: the model of the same samples predicts a decrease, that of other samples a rise."""
    torch.manual_seed(3)
    model = nn.Linear(20, 2).double()
    loss_function = nn.CrossEntropyLoss()
    optimizer = DirectionalDampedNewton(model.named_parameters(), [ALL])
    passed(model, loss_function, torch.randn(40, 20, dtype=torch.float64), torch.randint(0, 2, (40,)), optimizer)

    def answer(one):
        return torch.arange(len(one)), torch.full_like(one.evals, 1e-3)

    every = optimizer.directions()
    predicted = DampedChoice(every, *answer(every)).predicted_decrease
    expected, _ = expected_decrease(halves(every, 8), answer)
    assert predicted > 0.1
    assert expected < -0.1


def test_one_sample_says_nothing_about_others():
    one = typical_directions(3, samples=1)
    assert halves(one, 4) == []
    assert all(math.isnan(value) for value in expected_decrease([], lambda own: (torch.arange(3), own.evals)))


def test_samples_of_the_gradient_may_be_others():
    model, loss_function, X, y, optimizer = setting(
        [ALL], curvature={"subsampling_grad": [0, 1, 2], "subsampling_ggn": [3, 4, 5, 6, 7]}
    )
    passed(model, loss_function, X, y, optimizer)
    ((first, second),) = halves(optimizer.directions(), 1)
    assert (len(first.directions.gammas), len(second.directions.gammas)) == (1, 2)
    assert (len(first.directions.lambdas), len(second.directions.lambdas)) == (2, 3)


# Replay.


class Doubled(Damping, kind="test/doubled"):
    """Twice what the largest eigenvalue is."""

    def damp(self, directions):
        return torch.full_like(directions.evals, 2 * float(directions.all_evals.max()))


class Wrong(Damping, kind="test/wrong"):
    """Nothing that is a damping."""

    def damp(self, directions):
        return directions.evals * math.nan


def test_the_shipped_trace_is_early_middle_and_late():
    trace = digits_trace()
    assert [step.entry.step for step in trace] == [0, 30, 170]
    losses = [step.entry.loss for step in trace]
    assert losses == sorted(losses, reverse=True)
    assert all(step.entry.loss_after < step.entry.loss for step in trace)
    assert trace.index.bytes < 400_000
    assert "3 steps from 0 to 170" in repr(trace)
    for step in trace:
        (group,) = step.groups
        shown = group.directions
        assert shown.evals.shape == (64,)
        assert shown.evecs.shape == (320, 64)
        assert shown.gammas.shape == shown.lambdas.shape == (32, 64)
        torch.testing.assert_close(shown.lambdas.mean(0), shown.evals, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(shown.gammas.mean(0), shown.loss_gammas, rtol=1e-3, atol=1e-5)


def test_the_shipped_trace_is_that_of_its_config(tmp_path):
    from typer.testing import CliRunner

    from ddn_core.cli import app

    shipped = digits_trace()
    arguments = [
        "train",
        str(shipped.path / "config.toml"),
        "--out",
        str(tmp_path / "run"),
        "--set",
        "record.steps=[0]",
    ]
    result = CliRunner().invoke(app.app, [*arguments, "--set", "training.epochs=1"])
    assert result.exit_code == 0, result.output
    again = Trace.read(tmp_path / "run").steps[0].groups[0].directions
    torch.testing.assert_close(again.evals, shipped.steps[0].groups[0].directions.evals, rtol=1e-3, atol=1e-5)


def test_candidates_are_given_in_any_form():
    config = parse_config({"groups": [{**ALL, "damping": {"kind": "constant", "value": 0.25}, "lr": 0.25}]})
    shown = replay(
        digits_trace(),
        {
            "damping": Doubled(),
            "table": {"kind": "constant", "value": 0.25},
            "pair": ({"kind": "top-k", "k": 5}, Doubled()),
            "functions": (
                lambda evals: [len(evals) - 1, len(evals) - 4],
                lambda evals, evecs, gammas, lambdas: torch.ones_like(evals),
            ),
            "groups": [({"kind": "all"}, Doubled())],
            "config": config,
        },
        splits=1,
    )
    assert shown.names == (RECORDED, "damping", "table", "pair", "functions", "groups", "config")
    assert len(shown.results) == 3 * 7
    at = {one.name: one for one in shown.at(30, 0)}
    largest = float(at["damping"].choice.every.all_evals.max())
    assert at["damping"].choice.deltas.unique().tolist() == pytest.approx([2 * largest])
    assert len(at["pair"].choice.kept) == 5
    assert at["functions"].choice.kept.tolist() == [63, 60]
    assert at["config"].choice.step_norm == pytest.approx(0.5 * at["table"].choice.step_norm)
    assert at["groups"].choice.predicted_decrease == at["damping"].choice.predicted_decrease


def test_what_the_run_did_stands_beside():
    group = digits_trace().steps[1].groups[0]
    recorded = replay(digits_trace(), {}).at(30, 0)[0]
    assert recorded.name == RECORDED
    assert recorded.choice.lr == group.entry.lr == 0.5
    assert torch.equal(recorded.choice.deltas, group.deltas)
    assert recorded.expected_decrease < recorded.choice.predicted_decrease


def test_a_replay_knows_the_step_and_leaves_candidates_as_they_were():
    seen: list[Context] = []

    class Curious(Damping, kind="test/curious"):
        """Looks at the context."""

        _answers: int = 0

        def damp(self, directions):
            seen.append(directions.context)
            self._answers += 1
            return torch.ones_like(directions.evals)

    curious = Curious()
    replay(digits_trace(), {"curious": curious}, splits=0)
    assert [context.step for context in seen] == [0, 30, 170]
    assert all(context.gradient_norm > 0 and context.outputs == 10 and context.samples == 32 for context in seen)
    assert curious._answers == 0


def test_a_wrong_answer_names_candidate_step_and_group():
    with pytest.raises(StrategyError, match=r"bad, recorded step 0, group 0: .*test/wrong.*NaN"):
        replay(digits_trace(), {"bad": Wrong()})


@pytest.mark.parametrize(
    ("candidates", "error", "message"),
    [
        ({RECORDED: Doubled()}, ArgumentError, "'recorded' is the name of the run itself"),
        ({"one": [(Doubled(), Doubled())] * 2}, ArgumentError, "one has 2 groups, and the trace has 1"),
        ({"one": (Doubled(),)}, ArgumentError, "not a pair of criterion and damping"),
        ({"one": {"kind": "constnt"}}, ConfigError, "Did you mean 'constant'"),
        ({"one": "constnt"}, ConfigError, "one"),
        ({"one": parse_config({"optimizer": {"kind": "adam", "lr": 1e-3}})}, ArgumentError, "no strategies to replay"),
    ],
)
def test_wrong_candidates_are_refused(candidates, error, message):
    with pytest.raises(error, match=message):
        replay(digits_trace(), candidates)


def test_figures_as_a_table(tmp_path):
    shown = replay(digits_trace(), {"<b>floor</b>": Doubled()})
    assert "&lt;b&gt;floor&lt;/b&gt;" in shown._repr_html_()
    assert "<b>floor" not in shown._repr_html_()
    shown.write_csv(tmp_path / "replay.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "replay.csv").read_text())))
    assert len(rows) == 6
    for row, exact in zip(rows, shown.rows(), strict=True):
        assert {name: float(value) for name, value in row.items() if name != "candidate"} == pytest.approx(
            {name: value for name, value in exact.items() if name != "candidate"}, nan_ok=True
        )


def test_every_built_in_strategy_is_replayed():
    from ddn_plugins import ddn_dampings

    dampings = {strategy.kind: {"kind": strategy.kind} for strategy in ddn_dampings()}
    usable = {}
    for name, table in dampings.items():
        try:
            replay(digits_trace(), {name: table}, splits=0)
        except ConfigError:
            continue  # has fields that must be given
        usable[name] = table
    assert len(usable) >= 10
    shown = replay(digits_trace(), usable)
    assert {one.name for one in shown.results} == {RECORDED, *usable}


# The command line.


def test_a_config_says_what_is_recorded(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(
        'record = { steps = [0, 3], megabytes = 2 }\n[[groups]]\nparams=["*"]\ncriterion={kind="all"}\ndamping={kind="constant"}\n'
    )
    assert load_config(file).record == RecordConfig(steps=[0, 3], megabytes=2)
    with pytest.raises(ConfigError, match=r"record: an optimizer of torch has no curvature to record"):
        parse_config({"optimizer": {"kind": "adam"}, "record": {}})
    with pytest.raises(ConfigError, match=r"record\.steps"):
        parse_config({"groups": [ALL], "record": {"steps": []}})
