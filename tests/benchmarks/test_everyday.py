"""Everyday problems: their data, training by all sides, and kept runs."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite, nan

import pytest
import torch

from benchmarks.everyday import DEVELOPMENT, HELD_OUT, SETS, Samples
from benchmarks.everyday.data import with_wrong_labels
from benchmarks.everyday.optimizers import FIRST_ORDER, FirstOrder, Ours, default, our_sides, preset
from benchmarks.measuring.kept_runs import fingerprint, kept
from benchmarks.measuring.learning_curve import train, train_l_bfgs
from ddn_core.errors import NonFiniteError

PROBLEMS = DEVELOPMENT | HELD_OUT
ADAM = FIRST_ORDER[1]


@pytest.fixture
def quick():
    return SETS["quick"]["quick"]()


def test_the_sets_are_apart_and_large_enough():
    assert len(DEVELOPMENT) >= 7
    assert len(HELD_OUT) >= 7
    assert len(PROBLEMS) == len(DEVELOPMENT) + len(HELD_OUT)


@pytest.mark.parametrize("problems", [DEVELOPMENT, HELD_OUT])
def test_each_set_has_every_kind_of_batch(problems):
    assert {make().batch_size for make in problems.values()} == {0, 16, 64, 256}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_the_same_every_time_and_leave_the_generator_alone(name):
    state = torch.random.get_rng_state()
    problem, again = PROBLEMS[name](), PROBLEMS[name]()
    assert fingerprint(problem, 0) == fingerprint(again, 0) != fingerprint(problem, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    model = problem.model(0)
    assert 100 <= len(problem.training) <= 1000
    assert isfinite(problem.training_loss(model))
    assert isfinite(problem.test_error(model))


@pytest.mark.parametrize("name", DEVELOPMENT)
def test_our_optimizer_makes_steps_on_problems_for_development(name):
    problem = DEVELOPMENT[name]()
    problem = replace(problem, training=problem.training[torch.arange(16)], epochs=1)
    for side in our_sides(("default",)):
        found = train(problem, side, 0)
        assert len(found["losses"]) == 2
        assert found["losses"][0] != found["losses"][1] < inf


@pytest.mark.parametrize("name", ["digits-dropout", "digits-batch-norm"])
def test_losses_and_errors_are_those_of_the_model_in_evaluation_mode(name):
    problem = DEVELOPMENT[name]()
    model = problem.model(0)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    loss, error = problem.training_loss(model), problem.test_error(model)
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    model.eval()
    samples = problem.training
    assert loss == torch.nn.functional.cross_entropy(model(samples.inputs), samples.targets).item()
    assert error == float((model(problem.test.inputs).argmax(1) != problem.test.targets).float().mean())


class Solution(torch.nn.Module):
    """A function as a model."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def test_equations_hold_for_their_solutions():
    """The residuals vanish at the solution, which the test data has: here for the heat equation."""

    def solution(points):
        return (-0.1 * torch.pi**2 * points[:, :1]).exp() * (torch.pi * points[:, 1:]).sin()

    problem = HELD_OUT["heat-equation"]()
    assert problem.training_loss(Solution(solution)) < 1e-9
    assert problem.test_error(Solution(solution)) < 1e-5


def test_the_cubic_equation_holds_for_its_solution():
    def solution(points):
        return (torch.pi * points).sin() + (3 * torch.pi * points).sin() / 2

    problem = DEVELOPMENT["cubic-equation"]()
    assert problem.training_loss(Solution(solution)) < 1e-6
    assert problem.test_error(Solution(solution)) < 1e-5


def test_batches_have_each_sample_once_in_an_order_of_the_generator(quick):
    orders = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    first, second, other = (quick.batches(order) for order in orders)
    assert [len(batch) for batch in first] == [16, 16, 8]
    inputs = torch.cat([batch.inputs for batch in first])
    assert torch.equal(inputs.sort(0).values, quick.training.inputs.sort(0).values)
    assert torch.equal(inputs, torch.cat([batch.inputs for batch in second]))
    assert not torch.equal(inputs, torch.cat([batch.inputs for batch in other]))


def test_wrong_labels_are_wrong_and_as_many_as_asked_for():
    right = Samples(torch.zeros(5000, 1), torch.arange(5000) % 4)
    wrong = with_wrong_labels(right, 0.1, 4).targets
    assert set(wrong.tolist()) == {0, 1, 2, 3}
    assert (wrong != right.targets).float().mean() == pytest.approx(0.1, abs=0.015)


def test_a_run_is_that_of_a_plain_loop(quick):
    found = train(quick, ADAM, 3)
    model = quick.model(3)
    optimizer = torch.optim.Adam(model.parameters(), lr=ADAM.rate)
    order = torch.Generator().manual_seed(1003)
    losses = []

    def note():
        loss = torch.nn.functional.cross_entropy(model(quick.training.inputs), quick.training.targets)
        losses.append(loss.item())

    for _ in range(2):
        note()
        for rows in torch.randperm(40, generator=order).split(16):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(quick.training.inputs[rows]), quick.training.targets[rows])
            loss.backward()
            optimizer.step()
    note()
    assert found["losses"] == losses
    wrong = (model(quick.test.inputs).argmax(1) != quick.test.targets).float().mean()
    assert found["test_error"] == float(wrong)
    for times in (found["seconds"], found["wall_seconds"]):
        assert times == sorted(times)
        assert len(times) == 3
        assert times[0] == 0.0


def test_our_sides_are_called_with_and_without_a_closure(quick):
    without, with_closure = our_sides(("default",))
    assert (without.name, with_closure.name) == ("default, without closure", "default, with closure")
    assert train(quick, without, 0)["losses"][-1] < train(quick, without, 0)["losses"][0]
    received = []

    def make(model):
        optimizer = default(model)
        step = optimizer.step
        optimizer.step = lambda *closure: received.append(len(closure)) or step(*closure)
        return optimizer

    for has_closure in (False, True):
        train(quick, Ours("", make, has_closure), 0)
    assert received == [0] * 6 + [1] * 6


def test_presets_are_found_by_name_or_module():
    assert preset("default") is default
    assert preset("benchmarks.everyday.optimizers:default") is default
    with pytest.raises(ValueError, match="no preset 'nonsense'"):
        preset("nonsense")


def test_a_run_that_is_not_finite_ends(quick):
    def make(parameters, lr):
        optimizer = torch.optim.SGD(parameters, lr=lr)
        optimizer.register_step_post_hook(lambda *_: [values.data.fill_(nan) for values in quick_model.parameters()])
        return optimizer

    quick_model = quick.model(0)
    problem = replace(quick, build=lambda: quick_model)
    found = train(problem, FirstOrder("SGD", 0.1, make), 0)
    assert found["losses"][1:] == [inf]


def test_an_optimizer_that_meets_what_is_not_finite_has_diverged(quick):
    def make(model):
        optimizer = default(model)

        def step():
            raise NonFiniteError("the loss is not finite.")

        optimizer.step = step
        return optimizer

    found = train(quick, Ours("", make, has_closure=False), 0)
    assert found["losses"][1:] == [inf]


def test_l_bfgs_has_an_evaluation_for_each_epoch():
    problem = replace(DEVELOPMENT["robot-arm"](), epochs=12)
    found = train_l_bfgs(problem, 0)
    assert 12 <= len(found["losses"]) - 1 <= 12 + 25
    assert found["losses"][0] == problem.training_loss(problem.model(0))
    assert found["losses"][-1] < 0.5 * found["losses"][0]


def test_fingerprints_change_with_the_definition(quick):
    other_data = Samples(quick.training.inputs + 1e-3, quick.training.targets)
    other_task = replace(quick.task, loss=lambda model, samples: 1.01 * quick.task.loss(model, samples))
    others = [
        replace(quick, epochs=3),
        replace(quick, batch_size=8),
        replace(quick, training=other_data),
        replace(quick, task=other_task),
        replace(quick, build=lambda: torch.nn.Linear(2, 2)),
    ]
    assert len({fingerprint(problem, 0) for problem in (quick, *others)}) == 1 + len(others)
    assert fingerprint(replace(quick, title="another"), 0) == fingerprint(quick, 0)


def test_kept_runs_are_not_repeated(tmp_path):
    runs = iter([{"losses": [1.0, inf]}])
    file = tmp_path / "folder" / "run.json"
    assert kept(file, lambda: next(runs)) == kept(file, lambda: next(runs)) == {"losses": [1.0, inf]}
