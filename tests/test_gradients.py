"""Gradients that are changed between backward pass and step: an error, or the gradient of the step."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parameters_to_vector, vector_to_parameters

from ddn_core import DirectionalDampedNewton
from ddn_core.errors import ArgumentError, CurvatureError, NonFiniteError

CONSTANT = {"kind": "constant", "value": 0.3}
TOP = {"kind": "top-k", "k": 4}


def problem(samples=5):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return model, torch.randn(samples, 4).double(), torch.randint(0, 3, (samples,))


def optimizer_of(model, curvature=None, step=None, fallback=None, globs=("*",), **settings):
    table = {"criterion": "all", "damping": CONSTANT, **settings}
    groups = [{**table, "params": [glob]} for glob in globs]
    return DirectionalDampedNewton(model.named_parameters(), groups, curvature=curvature, step=step, fallback=fallback)


def flat(model):
    return parameters_to_vector(model.parameters()).detach().clone()


def whole_pass(optimizer, model, X, y, share=1.0):
    optimizer.backward(share * cross_entropy(model(X), y))


def added(model, X, y):
    (0.1 * parameters_to_vector(model.parameters()).abs().sum()).backward()


def filled_with_nan(model, X, y):
    model[0].weight.grad.fill_(float("nan"))


def zeroed(model, X, y):
    model.zero_grad(set_to_none=False)


def replaced(model, X, y):
    model[2].bias.grad = torch.ones_like(model[2].bias)


def removed(model, X, y):
    model[0].bias.grad = None


def all_removed(model, X, y):
    model.zero_grad()


def clipped(model, X, y):
    clip_grad_norm_(model.parameters(), 1e-2)


def clipped_in_one_call(model, X, y):
    clip_grad_value_(model.parameters(), 1e-2, foreach=True)


CHANGES = [added, filled_with_nan, zeroed, replaced, removed, all_removed, clipped, clipped_in_one_call]


@pytest.mark.parametrize("change", CHANGES)
def test_a_gradient_that_was_changed_after_the_pass_is_an_error(change):
    model, X, y = problem()
    optimizer = optimizer_of(model, {"kind": "ggn" if change is clipped else "ggn-mc", "seed": 0})
    whole_pass(optimizer, model, X, y)
    change(model, X, y)
    before = flat(model)
    for call in (optimizer.step, optimizer.directions):
        with pytest.raises(CurvatureError, match=r"group 0: the gradient of \d\.\w+ was .* max_step_norm or max_kl"):
            call()
    assert torch.equal(flat(model), before)
    optimizer.zero_grad()
    whole_pass(optimizer, model, X, y)
    optimizer.step()
    assert not torch.equal(flat(model), before)


@pytest.mark.parametrize("place", ["block", "closure", "hook", "second pass", "reused"])
def test_a_change_is_noticed_wherever_it_is_made(place):
    model, X, y = problem()
    optimizer = optimizer_of(model, every=2 if place == "reused" else 1)
    if place == "hook":
        optimizer.register_step_pre_hook(lambda *_: clipped(model, X, y))

    def closure():
        optimizer.zero_grad()
        cross_entropy(model(X), y).backward()
        clipped(model, X, y)

    if place == "reused":
        whole_pass(optimizer, model, X, y)
        optimizer.step()
        optimizer.zero_grad()
    before = flat(model)

    def run():
        if place == "closure":
            optimizer.step(closure)
        elif place == "block":
            with optimizer.curvature():
                closure()
            optimizer.step()
        elif place == "second pass":
            whole_pass(optimizer, model, X, y, 0.5)
            clipped(model, X, y)
            whole_pass(optimizer, model, X, y, 0.5)
        else:
            whole_pass(optimizer, model, X, y)
            if place != "hook":
                clipped(model, X, y)
            optimizer.step()

    with pytest.raises(CurvatureError, match="was changed in place, as by clipping, after its backward pass"):
        run()
    assert torch.equal(flat(model), before)


def test_gradients_that_are_there_before_the_first_pass_are_an_error():
    """Such as those of micro-batches without curvature: the step would be that of the last one."""
    model, X, y = problem()
    optimizer = optimizer_of(model)
    cross_entropy(model(X), y).backward()
    for run in (lambda: whole_pass(optimizer, model, X, y), lambda: optimizer.step(lambda: None)):
        with pytest.raises(
            CurvatureError, match=r"(gradient of 0.weight is from a backward pass without|needs a curv)"
        ):
            run()
    with pytest.raises(CurvatureError, match=r"gradient of 0.weight is from a backward pass without curvature"):
        optimizer.step(lambda: cross_entropy(model(X), y).backward())
    for _ in range(2):  # gradients that an earlier step has left are no such gradients
        optimizer.zero_grad(set_to_none=False)
        model.zero_grad()
        for _ in range(2):
            whole_pass(optimizer, model, X, y)
            optimizer.step()
        model.zero_grad(set_to_none=False)
        whole_pass(optimizer, model, X, y)
        optimizer.step()


@pytest.mark.parametrize("clear", [zeroed, lambda model, X, y: None])
def test_a_pass_without_curvature_is_noticed_in_gradients_that_were_there(clear):
    model, X, y = problem()
    optimizer = optimizer_of(model)
    whole_pass(optimizer, model, X, y)
    optimizer.step()
    clear(model, X, y)
    cross_entropy(model(X[:2]), y[:2]).backward()
    before = flat(model)
    with pytest.raises(CurvatureError, match="from a backward pass without curvature"):
        whole_pass(optimizer, model, X, y)
    assert torch.equal(flat(model), before)


def new_zeros(model, X, y):
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)


def zeros_after_another_pass(model, X, y):
    cross_entropy(model(X), y).backward()
    model.zero_grad(set_to_none=False)


@pytest.mark.parametrize("clear", [new_zeros, zeros_after_another_pass, zeroed])
def test_zeros_before_the_first_pass_are_no_gradient(clear):
    model, X, y = problem()
    other = copy.deepcopy(model)
    optimizer, twin = optimizer_of(model), optimizer_of(other)
    for _ in range(2):
        clear(model, X, y)
        whole_pass(optimizer, model, X, y)
        optimizer.step()
        twin.zero_grad()
        whole_pass(twin, other, X, y)
        twin.step()
    assert torch.equal(flat(model), flat(other))


def test_gradients_that_a_step_leaves_are_those_of_no_other_pass():
    model, X, y = problem()
    optimizer, scaler = optimizer_of(model, gradient="grad"), torch.amp.GradScaler("cpu")
    for _ in range(2):
        whole_pass(optimizer, model, X, y)
        clipped(model, X, y)
        optimizer.step()
    for _ in range(2):
        optimizer.backward(scaler.scale(cross_entropy(model(X), y)))
        scaler.step(optimizer)  # divides the gradients, too
        scaler.update()
    assert optimizer.step_count == 4


def test_what_is_no_change_is_no_error():
    """Accumulated passes, two batches, gradients of the fallback, closures that clear gradients, copies."""
    model, X, y = problem()
    optimizer = optimizer_of(model, step={"on_increase": "damp"}, fallback={"kind": "sgd", "lr": 0.1}, globs=["0.*"])
    for part in (X[:2], X[2:]):
        whole_pass(optimizer, model, part, y[: len(part)], 0.5)
    model[2].weight.grad.mul_(0.1)
    model[2].bias.grad = None

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(X), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.zero_grad()
    with optimizer.curvature("directions"):
        cross_entropy(model(X), y).backward()
    model.zero_grad()
    with optimizer.curvature("derivatives"):
        cross_entropy(model(X), y).backward()
    _ = [parameter.grad.norm() for parameter in model.parameters()]
    optimizer.step(closure)
    whole_pass(optimizer, model, X, y)
    twins = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))]
    for own, twin in twins:
        twin.zero_grad()
        whole_pass(twin, own, X, y)
        twin.step(lambda own=own: cross_entropy(own(X), y))
        assert twin.step_count == optimizer.step_count + 1
    optimizer.step(closure)
    assert optimizer.step_count == 3


EDITS = {
    "clip": lambda gradient, theta: 0.1 * gradient,
    "penalty": lambda gradient, theta: gradient + 0.2 * theta.sign(),
    "other": lambda gradient, theta: torch.cos(torch.arange(len(gradient), dtype=gradient.dtype)),
}


def edit_gradient(model, edit):
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    values = edit(gradient, flat(model))
    for parameter, part in zip(model.parameters(), values.split([p.numel() for p in model.parameters()]), strict=True):
        parameter.grad.copy_(part.reshape(parameter.shape))
    return values


def dense_ggn(model, X, names):
    """The generalized Gauss-Newton matrix of the mean cross-entropy, from the Jacobian of the whole batch."""
    given = {name: parameter.detach() for name, parameter in model.named_parameters() if name in names}
    jacobians = torch.func.jacrev(lambda own: torch.func.functional_call(model, own, (X,)))(given)
    J = torch.cat([jacobians[name].flatten(2) for name in names], dim=2)  # [N, C, P]
    p = model(X).detach().softmax(1)
    return torch.einsum("ncp,ncd,ndq->pq", J, p.diag_embed() - p[:, :, None] * p[:, None, :], J) / len(X)


def twin_move(curvature, gradient, theta, displacement, criterion, decay, include_complement, delta=0.3):
    """The way to the new iterate, from a dense curvature matrix; docs/optimizer.md has the formula."""
    evals, vectors = torch.linalg.eigh(curvature)
    first = max(int((evals <= 1e-12 * evals.max()).sum()), len(evals) - (4 if criterion == TOP else len(evals)))
    lambdas, E = evals[first:] + decay, vectors[:, first:]
    gradient = gradient + decay * theta
    anchors = E.T @ displacement
    move = E @ (anchors - (E.T @ gradient + lambdas * anchors) / (lambdas + delta))
    slope = gradient + decay * displacement if include_complement else decay * (theta + displacement)
    factor = 1 / (decay + delta) if include_complement or criterion == "all" else 0.0
    rest = displacement - factor * slope
    return move + rest - E @ (E.T @ rest)


@pytest.mark.parametrize("kind", ["ggn", "ggn-mc"])
@pytest.mark.parametrize(
    ("samples", "settings"),
    [
        (5, {}),
        (5, {"include_complement": True}),  # one solve, with the Gram matrix
        (30, {"include_complement": True}),  # with the GGN
        (30, {"criterion": TOP}),
        (5, {"criterion": TOP, "include_complement": True, "weight_decay": 0.2}),
        (5, {"weight_decay": 0.2}),
        (5, {"weight_decay": 0.2, "include_complement": True, "averaging": 0.4}),
        (30, {"averaging": 0.4}),
        (5, {"averaging": 0.4, "criterion": TOP, "max_decrease": 1e6}),
    ],
)
def test_the_step_is_that_of_the_gradient_it_is_given(samples, settings, kind):
    """Two groups, three steps, against dense matrices; those of Monte-Carlo samples are made of all directions.

    Along a direction whose eigenvalue is barely not zero, such a matrix has errors: 1.5e-8 of the step at most.
    """
    model, X, y = problem(samples)
    optimizer = optimizer_of(
        model,
        {"kind": kind, "mc_samples": 2 if kind == "ggn-mc" else None, "seed": 0},
        globs=["0.*", "2.*"],
        gradient="grad",
        **settings,
    )
    displacements = [torch.zeros(30).double(), torch.zeros(21).double()]
    for count, edit in enumerate(EDITS.values()):
        optimizer.zero_grad()
        whole_pass(optimizer, model, X, y)
        gradient = edit_gradient(model, edit)
        theta, expected = flat(model), []
        for index, rows in enumerate((slice(0, 30), slice(30, None))):
            if kind == "ggn":
                names = [f"{2 * index}.weight", f"{2 * index}.bias"]
                curvature = dense_ggn(model, X, names)
            else:
                found = optimizer.directions(index)
                vectors = torch.cat([vectors.flatten(1) for vectors in found.eigenvectors()], dim=1)
                curvature = vectors.T @ (found.evals[:, None] * vectors)
            move = twin_move(
                curvature,
                gradient[rows],
                theta[rows],
                displacements[index],
                settings.get("criterion", "all"),
                settings.get("weight_decay", 0.0),
                settings.get("include_complement", False),
            )
            beta = min(settings.get("averaging", 0.0), count / (count + 2))
            displacements[index] = beta * move
            expected.append(theta[rows] + (1 - beta) * move)
        optimizer.step()
        torch.testing.assert_close(flat(model), torch.cat(expected), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["ggn", "ggn-mc"])
def test_directional_gradients_are_those_of_the_gradient_it_is_given(kind):
    model, X, y = problem()
    optimizer = optimizer_of(model, {"kind": kind, "seed": 0}, gradient="grad")
    whole_pass(optimizer, model, X, y)
    plain = optimizer.directions()
    gradient = edit_gradient(model, EDITS["other"])
    found = optimizer.directions()
    vectors = torch.cat([part.flatten(1) for part in found.eigenvectors()], dim=1)
    torch.testing.assert_close(found.loss_gammas, vectors @ gradient)
    torch.testing.assert_close(found.gammas, plain.gammas)  # those of the samples are captured
    assert found.context.gradient_norm == pytest.approx(float(gradient.norm()))
    optimizer.step()
    report = optimizer.last_step[0]
    model.zero_grad(set_to_none=False)  # the report keeps the gradient of its step
    torch.testing.assert_close(report.gammas, vectors @ gradient)


@pytest.mark.parametrize("damping", [CONSTANT, {"kind": "relative", "fraction": 0.2}])
def test_reused_directions_and_a_second_batch_use_the_gradient_it_is_given(damping):
    model, X, y = problem()
    optimizer = optimizer_of(model, gradient="grad", every=2, damping=damping)
    for count in range(3):
        optimizer.zero_grad()
        with optimizer.curvature("directions"):
            cross_entropy(model(X), y).backward()
        optimizer.zero_grad()
        with optimizer.curvature("derivatives"):
            cross_entropy(model(X[:3]), y[:3]).backward()
        gradient = edit_gradient(model, EDITS["other"])
        if optimizer.refreshes(0):
            found = optimizer.directions()
            E = torch.cat([part.flatten(1) for part in found.eigenvectors()], dim=1)
            names = [name for name, _ in model.named_parameters()]
            evals = torch.einsum("kp,pq,kq->k", E, dense_ggn(model, X[:3], names), E)  # those of the second batch
            deltas = 0.3 if damping is CONSTANT else 0.2 * found.evals.max()
        assert optimizer.refreshes(0) == (count != 1)
        expected = flat(model) - E.T @ ((E @ gradient) / (evals + deltas))
        optimizer.step()
        torch.testing.assert_close(flat(model), expected)


def test_a_given_gradient_must_be_finite_and_complete():
    model, X, y = problem()
    for criterion, include_complement in (("all", True), (TOP, False)):
        for step in ({}, {"on_nonfinite": "skip"}):
            optimizer = optimizer_of(
                model, gradient="grad", criterion=criterion, include_complement=include_complement, step=step
            )
            optimizer.zero_grad()
            whole_pass(optimizer, model, X, y)
            filled_with_nan(model, X, y)
            before = flat(model)
            if step:
                optimizer.step()
                assert optimizer.skipped_steps == 1
            else:
                with pytest.raises(NonFiniteError, match="group 0"):
                    optimizer.step()
            assert torch.equal(flat(model), before)
    for change, message in ((removed, "0.bias was set to None"), (all_removed, "0.weight was set to None")):
        optimizer.zero_grad()
        whole_pass(optimizer, model, X, y)
        change(model, X, y)
        with pytest.raises(CurvatureError, match=message):
            optimizer.step()
    with optimizer.curvature("directions"):
        cross_entropy(model(X), y).backward()
    optimizer.zero_grad()
    with pytest.raises(CurvatureError, match=r'group 0 has gradient = "grad", but 0.weight holds no gradient'):
        optimizer.step()


def test_a_gradient_that_the_loss_does_not_give_is_no_silent_part_of_a_step():
    model, X, y = problem()
    model.unused = nn.Parameter(torch.ones(2).double())
    optimizer = optimizer_of(model, gradient="grad")
    optimizer.backward(cross_entropy(model[2](model[1](model[0](X))), y))
    model.unused.grad = torch.ones(2).double()
    with pytest.raises(CurvatureError, match="gradient of unused was set, though the loss does not depend on it"):
        optimizer.step()


@pytest.mark.parametrize("every", [1, 2])
def test_a_penalty_on_a_parameter_that_the_loss_does_not_reach_is_no_silent_part_of_a_step(every):
    model, X, y = problem()
    optimizer = optimizer_of(model, gradient="grad", every=every)
    new_zeros(model, X, y)
    model[0].requires_grad_(False)
    for _ in range(2):
        optimizer.backward(cross_entropy(model(X), y))
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # zeros in the frozen layer are no gradient
    optimizer.backward(cross_entropy(model(X), y))
    model[0].requires_grad_(True)
    before = flat(model)
    added(model, X, y)
    with pytest.raises(CurvatureError, match=r"group 0: 0\.weight holds a gradient, though the loss does not depend"):
        optimizer.step()
    assert torch.equal(flat(model), before)


def test_gradients_of_one_group_alone_may_be_changed():
    model, X, y = problem()
    groups = [
        {"params": [glob], "criterion": "all", "damping": 0.3, "gradient": gradient}
        for glob, gradient in (("0.*", "grad"), ("2.*", "captured"))
    ]
    optimizer = DirectionalDampedNewton(model.named_parameters(), groups)
    whole_pass(optimizer, model, X, y)
    model[0].weight.grad.mul_(0.5)
    optimizer.step()
    optimizer.zero_grad()
    whole_pass(optimizer, model, X, y)
    model[2].weight.grad.mul_(0.5)
    with pytest.raises(CurvatureError, match=r"group 1: the gradient of 2.weight was changed in place"):
        optimizer.step()


def test_the_tries_of_a_step_use_the_same_given_gradient():
    model, X, y = problem()
    optimizer = optimizer_of(
        model,
        step={"on_increase": "damp", "attempts": 60},
        gradient="grad",
        criterion=TOP,
        damping={"kind": "levenberg-marquardt", "initial": 1e-6},
    )
    whole_pass(optimizer, model, X, y)
    gradient = edit_gradient(model, lambda gradient, theta: 50 * gradient)
    found, before, loss = (
        optimizer.directions().select(range(-4, 0)),
        flat(model),
        float(cross_entropy(model(X), y).detach()),
    )
    E = torch.cat([part.flatten(1) for part in found.eigenvectors()], dim=1)

    def closure():
        optimizer.zero_grad()
        value = cross_entropy(model(X), y)
        value.backward()
        return value

    assert optimizer.step(closure) < loss
    report = optimizer.last_step[0]
    assert float(report.deltas[0]) > 1e-5  # it was tried again
    torch.testing.assert_close(flat(model) - before, -E.T @ ((E @ gradient) / (report.evals + report.deltas[0])))


def test_vector_to_parameters_is_a_change_of_parameters_alone():
    model, X, y = problem()
    optimizer = optimizer_of(model)
    whole_pass(optimizer, model, X, y)
    vector_to_parameters(flat(model), model.parameters())
    with pytest.raises(CurvatureError, match=r"group 0: 0\.weight was moved, cast or replaced"):
        optimizer.step()


def test_an_optimizer_that_could_not_be_made_disturbs_no_other():
    model, X, y = problem()
    with pytest.raises(ArgumentError) as kept:  # and with the traceback, the optimizer
        optimizer_of(model, globs=["nothing.*"])
    optimizer = optimizer_of(model)
    whole_pass(optimizer, model, X, y)
    optimizer.step()
    assert "nothing" in str(kept.value)
