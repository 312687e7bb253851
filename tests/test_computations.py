"""ViViT's other computations, eigenvalues, eigenpairs and derivatives, against dense twins; what they share."""

from __future__ import annotations

import copy
import gc
import warnings
import weakref

import pytest
import torch
from backpack import backpack, extend
from torch import nn
from torch.nn.utils import parameters_to_vector

from ddn_core import (
    DirectionalDampedNewtonComputation,
    DirectionalDerivativesComputation,
    EighComputation,
    EigvalshComputation,
)
from ddn_core.computation.orthonormal import orthonormalized
from ddn_core.errors import ArgumentError, ConfigError, DdnError, NoResultError, StrategyError
from ddn_core.testing import dense_ggn
from tests.engine.cases import GROUPINGS, LOSSES, group_of, make_problem

ALL, TOP = {"kind": "all"}, {"kind": "top-k", "k": 3}
ONE = {"kind": "constant", "value": 1.0}
NEW = [EigvalshComputation, EighComputation, DirectionalDerivativesComputation]
EVERY = [*NEW, DirectionalDampedNewtonComputation]
SOME_CASES = ["mlp-relu", "linear-2-extra", "conv2d", "transposed", "batch-norm-2d", "embedding", "branched", "tied"]


def _run(computation, groups, model, loss_function, inputs, targets):
    """Run forward and backward pass, and return the results of the groups."""
    loss = extend(loss_function)(extend(model)(inputs), targets)
    with backpack(*computation.get_extensions(), extension_hook=computation.get_extension_hook(groups)):
        loss.backward()
    return [computation.get_result(group) for group in groups]


def _on(problem, computation, groups):
    return _run(computation, groups, problem.model, problem.loss_function, problem.inputs, problem.targets)


def _flat(evecs):
    """Return eigenvectors in parameter format as columns, `[P, K]`."""
    return torch.cat([part.flatten(1) for part in evecs], dim=1).T


def _spectrum(twin, columns):
    """Return what the Gram matrix has for eigenvalues, ascending, by the twin's."""
    count = min(columns, len(twin.evals))
    return torch.cat([twin.evals.new_zeros(columns - count), twin.evals[len(twin.evals) - count :]])


def _assert_matches_twin(problem, named, criterion=ALL, grad=None, ggn=None, lambdas=None):
    """Compare all three computations with the twins of the groups; signs and bases of eigenspaces are free."""
    samples = list(range(len(problem.inputs)))
    groups = [group_of(problem, names, criterion, None) for names in named]
    spectra = _on(problem, EigvalshComputation(ggn), groups)
    pairs = _on(problem, EighComputation(ggn), groups)
    derivatives = _on(problem, DirectionalDerivativesComputation(grad, ggn, subsampling_lambdas=lambdas), groups)
    outputs = problem.model(problem.inputs)[0].numel()
    results = zip(named, groups, spectra, pairs, derivatives, strict=True)
    for names, group, spectrum, (evals, evecs), (gammas, curvatures) in results:
        twin = problem.twin(names, grad, ggn)
        largest = float(twin.evals.max())
        expected = _spectrum(twin, outputs * len(samples if ggn is None else ggn))
        torch.testing.assert_close(spectrum, expected, rtol=1e-7, atol=1e-11 * largest)

        # eigenpairs: of the GGN, orthonormal, in the format of the parameters; all of them, or the leading ones
        rank = int((expected > 1e-12 * largest).sum())
        count = rank if criterion == ALL else min(3, rank)
        assert count <= len(evals) <= (len(expected) if criterion == ALL else count)
        torch.testing.assert_close(evals, expected[-len(evals) :], rtol=1e-7, atol=1e-11 * largest)
        assert isinstance(evecs, list)
        assert [part.shape for part in evecs] == [(len(evals), *p.shape) for p in group["params"]]
        vectors = _flat(evecs)
        torch.testing.assert_close(
            vectors.T @ vectors, torch.eye(len(evals), dtype=torch.float64), rtol=0, atol=1e-12 * len(vectors)
        )
        matrix = twin.vectors @ torch.diag(twin.evals) @ twin.vectors.T
        torch.testing.assert_close(matrix @ vectors, vectors * evals, rtol=0, atol=1e-9 * largest)

        # derivatives: those of each sample's loss along these very vectors, with their signs
        block = problem.block(names)
        own = problem.gradients[:, block][samples if grad is None else grad]
        scale = float(own.norm())
        torch.testing.assert_close(gammas, own @ vectors, rtol=1e-6, atol=1e-7 * scale)
        chosen = lambdas or ggn or samples
        ggns = problem.ggns[:, block[:, None], block][chosen]
        exact = torch.einsum("pk,npq,qk->nk", vectors, ggns, vectors)
        torch.testing.assert_close(curvatures, exact, rtol=1e-6, atol=1e-7 * largest)
        assert gammas.shape == (len(own), len(evals))
        assert curvatures.shape == (len(chosen), len(evals))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", SOME_CASES)
def test_one_group(case, loss):
    problem = make_problem(case, loss, "mean")
    _assert_matches_twin(problem, GROUPINGS["one"](problem.model))


@pytest.mark.parametrize("criterion", [ALL, TOP], ids=["all", "top-3"])
@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("case", ["mlp-relu", "mlp-sigmoid", "conv-all-settings", "tied"])
def test_groupings(case, grouping, criterion):
    problem = make_problem(case, "cross-entropy", "mean")
    _assert_matches_twin(problem, GROUPINGS[grouping](problem.model), criterion)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("lambdas", [None, [2, 0], [3]], ids=str)
@pytest.mark.parametrize("ggn", [None, [0, 1]], ids=str)
@pytest.mark.parametrize("grad", [None, [3, 1]], ids=str)
@pytest.mark.parametrize("case", ["mlp-relu", "conv2d"])
def test_subsampling(case, grad, ggn, lambdas, reduction):
    problem = make_problem(case, "cross-entropy", reduction)
    _assert_matches_twin(problem, GROUPINGS["per-layer"](problem.model), ALL, grad, ggn, lambdas)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_outputs_with_axes(loss, reduction):
    problem = make_problem("outputs-with-axes", loss, reduction)
    _assert_matches_twin(problem, GROUPINGS["per-parameter"](problem.model))


# directional curvatures from other samples than the directions


def test_newton_step_with_curvatures_of_other_samples():
    problem = make_problem("mlp-sigmoid", "cross-entropy", "mean")
    names = GROUPINGS["one"](problem.model)[0]
    group = group_of(problem, names, TOP, ONE)
    computation = DirectionalDampedNewtonComputation(subsampling_ggn=[0, 1], subsampling_lambdas=[2, 3])
    step = parameters_to_vector(_on(problem, computation, [group])[0])
    twin = problem.twin(names, None, [0, 1])
    vectors = twin.vectors[:, -3:]
    lambdas = torch.einsum("pk,npq,qk->nk", vectors, problem.ggns[[2, 3]], vectors)
    torch.testing.assert_close(computation.get_directions(group).lambdas, lambdas)
    gammas = (problem.gradients @ vectors).mean(0)
    torch.testing.assert_close(step, vectors @ (-gammas / (lambdas.mean(0) + 1.0)))


@pytest.mark.parametrize("mc_samples", [0, 5])
def test_curvature_on_the_samples_that_chose_the_direction_is_the_larger(mc_samples):
    """Each half's leading eigenvector is where its own curvature is largest: the sum over both halves must be."""
    problem = make_problem("mlp-relu", "mse", "mean")
    group = group_of(problem, GROUPINGS["one"](problem.model)[0], {"kind": "top-k", "k": 1}, None)
    halves = [[0, 1], [2, 3]]
    own, other = 0.0, 0.0
    for half, rest in (halves, halves[::-1]):
        for lambdas in (half, rest):
            computation = DirectionalDerivativesComputation(None, half, mc_samples, subsampling_lambdas=lambdas, seed=0)
            curvature = float(_on(problem, computation, [group])[0][1].mean())
            own, other = (own + curvature, other) if lambdas is half else (own, other + curvature)
    assert own > other + 1e-6


# Monte-Carlo


@pytest.mark.parametrize("loss", LOSSES)
def test_monte_carlo_estimates_are_right_on_average(loss):
    problem = make_problem("mlp-sigmoid", loss, "mean")
    names = GROUPINGS["one"](problem.model)[0]
    group = group_of(problem, names, TOP, None)
    (evals,) = _on(problem, EigvalshComputation(mc_samples=500, seed=0), [group])
    assert len(evals) == 500 * len(problem.inputs)
    exact = problem.twin(names).evals
    assert float((evals[-len(exact) :] - exact).norm() / exact.norm()) < 0.15
    assert float(evals[: -len(exact)].abs().max()) < 1e-10
    ((leading, evecs),) = _on(problem, EighComputation(mc_samples=500, seed=0), [group])
    torch.testing.assert_close(leading, evals[-3:])
    ((gammas, lambdas),) = _on(problem, DirectionalDerivativesComputation(mc_samples_ggn=500, seed=0), [group])
    torch.testing.assert_close(gammas, problem.gradients @ _flat(evecs), rtol=1e-6, atol=1e-8)  # not sampled
    torch.testing.assert_close(lambdas.mean(0), leading)


@pytest.mark.parametrize("kind", NEW)
def test_seed_makes_it_repeatable(kind):
    problem = make_problem("mlp-relu", "cross-entropy", "mean")
    group = group_of(problem, GROUPINGS["one"](problem.model)[0], TOP, None)
    name = "mc_samples_ggn" if kind is DirectionalDerivativesComputation else "mc_samples"
    first, again, other = (_on(problem, kind(**{name: 1}, seed=seed), [group])[0] for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


# float32, and spectra that make eigenvectors oblique


def _single(name):
    torch.manual_seed(0)
    if name == "well separated":  # a linear model on inputs with one scale for each sample: its spectrum is known
        inputs = torch.linalg.qr(torch.randn(12, 8))[0].T * torch.logspace(0, -1.5, 8)[:, None]
        return nn.Sequential(nn.Linear(12, 1, bias=False)), nn.MSELoss(), inputs, torch.randn(8, 1)
    if name == "all down to rounding":
        model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5))
        inputs = torch.randn(20, 12) * torch.logspace(-3, 1, 12)
        return model, nn.CrossEntropyLoss(), inputs, torch.randint(0, 5, (20,))
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return model, nn.CrossEntropyLoss(), torch.randn(1, 6).repeat(9, 1), torch.zeros(9, dtype=torch.long)


def _in_double(model, loss_function, inputs, targets):
    """Return the dense GGN in float64."""
    targets = targets.double() if targets.is_floating_point() else targets
    return dense_ggn(copy.deepcopy(model).double(), loss_function, inputs.double(), targets)


@pytest.mark.parametrize("name", ["well separated", "all down to rounding", "repeated samples"])
@pytest.mark.parametrize("criterion", [ALL, TOP], ids=["all", "top-3"])
def test_eigenvectors_in_float32(name, criterion):
    model, loss_function, inputs, targets = _single(name)
    ggn = _in_double(model, loss_function, inputs, targets)
    group = {"params": list(model.parameters()), "criterion": criterion}
    ((evals, evecs),) = _run(EighComputation(), [group], model, loss_function, inputs, targets)
    vectors = _flat(evecs)
    assert vectors.dtype == torch.float32
    assert float((vectors.T @ vectors - torch.eye(len(evals))).abs().max()) < 1e-5
    residual = ggn @ vectors.double() - vectors.double() * evals.double()
    assert float(residual.norm(dim=0).max()) < 1e-5 * float(evals.max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, mlp):
    model, loss_function, inputs, targets = mlp
    model, inputs = model.to(dtype), inputs.to(dtype)
    group = {"params": list(model.parameters()), "criterion": TOP}
    for kind in NEW:
        (result,) = _run(kind(), [group], model, loss_function, inputs, targets)
        assert result[0].dtype == torch.float32


def _oblique(error):
    """Return orthonormal vectors that have got something of each other, their eigenvalues, and the former."""
    straight = torch.linalg.qr(torch.randn(30, 4, dtype=torch.float64))[0].T
    mix = torch.eye(4, dtype=torch.float64) + error * torch.randn(4, 4, dtype=torch.float64)
    return mix @ straight, torch.tensor([2.0, 8.0, 1.0, 4.0], dtype=torch.float64)


@pytest.mark.parametrize("error", [0.0, 1e-3, 3.0])
def test_orthonormalization_keeps_leading_spans_and_order(error):
    oblique, evals = _oblique(error)
    parts = [oblique[:, :10].reshape(4, 5, 2), oblique[:, 10:]]
    straight = _flat(orthonormalized(parts, evals)).T
    torch.testing.assert_close(straight @ straight.T, torch.eye(4, dtype=torch.float64))
    for count in (1, 2, 3):
        leading = evals.argsort(descending=True)[:count]
        outside = oblique[leading] - oblique[leading] @ straight[leading].T @ straight[leading]
        assert float(outside.abs().max()) < 1e-12 * (1 + error)
    if error < 1:
        assert float((oblique - straight).abs().max()) < 10 * error + 1e-14  # no sign has changed


def test_vectors_that_depend_on_each_other_are_made_orthonormal_too():
    oblique, evals = _oblique(0.0)
    oblique[0] = oblique[1]
    straight = orthonormalized([oblique], evals)[0]
    torch.testing.assert_close(straight @ straight.T, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(straight[[1, 3]], oblique[[1, 3]])  # the leading two, before the one that is double


# ViViT's own calls


def _top_two(evals):
    return [evals.numel() - 2, evals.numel() - 1]


def _vivit_results(model, loss_function, inputs, targets):
    """Call each computation as ViViT's examples do, arguments by position, with the table of an optimizer's group."""
    model, loss_function = extend(model), extend(loss_function)
    (group,) = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9).param_groups
    group.update(criterion=_top_two, damping=lambda evals, evecs, gammas, lambdas: torch.ones_like(evals))
    eigenvalues, eigenpairs = EigvalshComputation([0, 1, 2], 0, False), EighComputation([0, 1, 2], 0, False, 1e-4)
    others = [
        kind([3, 4], [0, 1, 2], 0, False, 1e-4)
        for kind in (DirectionalDerivativesComputation, DirectionalDampedNewtonComputation)
    ]
    results = []
    for computation, extensions in (
        (eigenvalues, [eigenvalues.get_extension()]),
        (eigenpairs, [eigenpairs.get_extension()]),
        *((other, other.get_extensions()) for other in others),
    ):
        with backpack(*extensions, extension_hook=computation.get_extension_hook([group])):
            loss_function(model(inputs), targets).backward()
        results.append(computation.get_result(group))
    return results


def test_vivit_s_own_calls(mlp):
    model = mlp[0]
    evals, (leading, evecs), (gammas, lambdas), step = _vivit_results(*mlp)
    assert evals.shape == (9,)
    torch.testing.assert_close(leading, evals[-2:])
    assert [part.shape for part in evecs] == [(2, *p.shape) for p in model.parameters()]
    assert gammas.shape == (2, 2)
    assert lambdas.shape == (3, 2)
    torch.testing.assert_close(lambdas.mean(0), leading)
    expected = _flat(evecs) @ (-gammas.mean(0) / (leading + 1.0))
    torch.testing.assert_close(parameters_to_vector(step), expected)


@pytest.mark.parametrize("kind", [EighComputation, DirectionalDerivativesComputation])
def test_null_directions_that_a_function_selects_are_dropped_with_one_warning(kind):
    problem = make_problem("mlp-relu", "cross-entropy", "mean")
    names, seen = GROUPINGS["one"](problem.model)[0], []
    evals = problem.twin(names).evals
    columns, rank = 12, int((evals > 1e-12 * evals.max()).sum())  # R = N · C
    null = columns - rank

    def every(evals):
        seen.append(evals)
        return list(range(len(evals)))

    group = group_of(problem, names, every, None)
    with pytest.warns(UserWarning, match=f"selected {null} of {null} directions") as warned:
        (result,) = _on(problem, kind(), [group])
    assert len(warned) == 1
    assert len(seen[0]) == columns
    assert all(bool(torch.isfinite(part).all()) for part in (result[0], result[1][0], result[1][-1]))
    assert result[0].shape[-1] == rank
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _on(problem, kind(warn_small_eigvals=0), [group])


def test_order_is_that_of_the_criterion(mlp):
    params = list(mlp[0].parameters())
    up, down = ({"params": params, "criterion": choose} for choose in (_top_two, lambda e: _top_two(e)[::-1]))
    ((evals, evecs),), ((reversed_evals, reversed_evecs),) = (
        _run(EighComputation(), [group], *mlp) for group in (up, down)
    )
    assert torch.equal(evals.flip(0), reversed_evals)
    for part, other in zip(evecs, reversed_evecs, strict=True):
        torch.testing.assert_close(part.flip(0), other)


# what all computations share


def _group(model, **others):
    return {"params": list(model.parameters()), "criterion": TOP, "damping": ONE, **others}


def test_several_computations_share_a_backward_pass(mlp):
    model, loss_function, inputs, targets = mlp
    group = _group(model)
    computations = [kind() for kind in EVERY]
    for computation in computations:
        computation.get_extension_hook([group])
    loss = extend(loss_function)(extend(model)(inputs), targets)
    with backpack(*(computation.get_extension() for computation in computations)):
        loss.backward()
    for kind, computation in zip(EVERY, computations, strict=True):
        (alone,) = _run(kind(), [group], *mlp)
        for ours, expected in zip(computation.get_result(group), alone, strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kind", NEW)
def test_one_object_serves_any_number_of_passes(kind, mlp):
    model, loss_function, inputs, targets = mlp
    group, computation = _group(model), kind()
    first, second = (_run(computation, [group], model, loss_function, inputs + shift, targets)[0] for shift in (0, 1))
    (alone,) = _run(kind(), [group], model, loss_function, inputs + 1, targets)
    assert torch.equal(second[0], alone[0])
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("kind", EVERY)
def test_a_failed_pass_leaves_no_stale_result(kind, mlp):
    model, loss_function, inputs, targets = mlp
    group, computation = _group(model), kind()
    _run(computation, [group], *mlp)
    with pytest.raises(DdnError), backpack(*computation.get_extensions()):
        (-loss_function(model(inputs), targets)).backward()
    with pytest.raises(NoResultError):
        computation.get_result(group)


@pytest.mark.parametrize("kind", EVERY)
def test_results_of_unknown_groups(kind, mlp):
    group, computation = _group(mlp[0]), kind()
    with pytest.raises(NoResultError, match="no result for this group"):
        computation.get_result(group)
    _run(computation, [group], *mlp)
    with pytest.raises(KeyError, match="no result"):
        computation.get_result(dict(group))


@pytest.mark.parametrize("kind", NEW)
def test_nothing_is_left_behind(kind, mlp):
    model = mlp[0]
    _run(kind(), [_group(model)], *mlp)
    assert all(vars(parameter) == {} for parameter in model.parameters())
    computation, freed = kind(), []
    for _ in range(2):
        (result,) = _run(computation, [_group(model)], *mlp)
        freed.append(weakref.ref(result if isinstance(result, torch.Tensor) else result[0]))
        del result
    gc.collect()
    assert freed[0]() is None


@pytest.mark.parametrize("kind", NEW)
def test_a_group_that_the_loss_does_not_reach(kind, mlp):
    unused = nn.Linear(2, 2)
    groups = [_group(mlp[0]), _group(unused)]
    reached, result = _run(kind(), groups, *mlp)
    assert len(reached) > 0
    if kind is EigvalshComputation:
        assert torch.equal(result, torch.zeros(24))
    elif kind is EighComputation:
        assert [part.shape for part in (result[0], *result[1])] == [(0,), (0, 2, 2), (0, 2)]
    else:
        assert [part.shape for part in result] == [(8, 0), (8, 0)]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (EigvalshComputation, "group 0: 24 eigenvalues"),
        (EighComputation, "group 0: 3 of 24 directions kept"),
        (DirectionalDerivativesComputation, "group 0: 3 of 24 directions kept"),
    ],
)
def test_verbose_tells(kind, told, mlp, capsys):
    _run(kind(verbose=True), [_group(mlp[0])], *mlp)
    assert told in capsys.readouterr().out
    _run(kind(), [_group(mlp[0])], *mlp)
    assert capsys.readouterr().out == ""


# what cannot work is told


@pytest.mark.parametrize(
    ("kind", "keys", "listed"),
    [
        (EigvalshComputation, ["params"], "'params'"),
        (EighComputation, ["params", "criterion"], "'params' and 'criterion'"),
        (DirectionalDerivativesComputation, ["params", "criterion"], "'params' and 'criterion'"),
        (
            DirectionalDampedNewtonComputation,
            ["params", "criterion", "damping"],
            "'params', 'criterion' and 'damping'",
        ),
    ],
)
def test_missing_keys(kind, keys, listed, mlp):
    group = _group(mlp[0])
    kind().get_extension_hook([{key: group[key] for key in keys}])
    for missing in keys:
        with pytest.raises(ArgumentError) as error:
            kind().get_extension_hook([{key: group[key] for key in keys if key != missing}])
        assert str(error.value) == f"group 0 has no {missing!r}. Give each group {listed}."


@pytest.mark.parametrize("kind", NEW)
def test_bad_groups(kind, mlp):
    weight = mlp[0][0].weight
    for groups, message in (
        ([_group(mlp[0]), _group(mlp[0], params=[weight])], "is in group 0 and in group 1"),
        ([_group(mlp[0], params=[weight, weight])], "is in group 0 and in group 0"),
        ([_group(mlp[0], params=[])], "empty list of parameters"),
        ([], "no parameter groups"),
        (_group(mlp[0]), "the parameter groups are a dict"),
    ):
        with pytest.raises(ArgumentError, match=message):
            kind().get_extension_hook(groups)


@pytest.mark.parametrize("indices", [[0, 0], [-1], [0.5], []], ids=str)
def test_bad_subsampling(indices):
    for kind in (EigvalshComputation, EighComputation):
        with pytest.raises(ArgumentError, match="subsampling"):
            kind(indices)
    for kind in (DirectionalDerivativesComputation, DirectionalDampedNewtonComputation):
        with pytest.raises(ArgumentError, match="subsampling_lambdas"):
            kind(subsampling_lambdas=indices)


def test_indices_beyond_the_batch(mlp):
    computation = DirectionalDerivativesComputation(subsampling_lambdas=[8])
    with pytest.raises(ArgumentError, match="subsampling_lambdas has index 8, but the batch has 8 samples"):
        _run(computation, [_group(mlp[0])], *mlp)


@pytest.mark.parametrize("kind", [EighComputation, DirectionalDerivativesComputation])
def test_bad_criteria(kind, mlp):
    with pytest.raises(ConfigError, match="group 0, criterion: kind: no criterion named 'topk'"):
        kind().get_extension_hook([_group(mlp[0], criterion={"kind": "topk"})])
    with pytest.raises(StrategyError, match=r"^group 0: criterion .*index 24; there are 24 directions"):
        _run(kind(), [_group(mlp[0], criterion=lambda evals: [len(evals)])], *mlp)
    with pytest.raises(ArgumentError, match="Monte-Carlo"):
        kind(None, None, -1) if kind is DirectionalDerivativesComputation else kind(None, -1)
