"""Every quantity of the engine against a slow, obvious twin from plain autograd, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from tests.engine.cases import CASES, GROUPINGS, LOSSES, group_of, make_problem, run

CRITERIA = {"top-1": {"kind": "top-k", "k": 1}, "top-10": {"kind": "top-k", "k": 10}, "all": {"kind": "all"}}
DAMPING = 0.5
GRAD, GGN = [None, [0, 1], [2]], [None, [0, 1], [3, 1]]


def covering(rows, columns, rotated):
    """Return all triples; those that `make test` leaves out are marked.

    Left in is every row with every column. The third value rotates, so that it meets each row and each column, too, where
    there are enough of the other.
    """
    return [
        pytest.param(row, column, value, marks=() if (i + j) % len(rotated) == k else pytest.mark.slow)
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
        for k, value in enumerate(rotated)
    ]


def assert_group_matches_twin(problem, computation, group, names, criterion, **subsampling):
    """Compare all quantities of a group with the twin; signs and bases of eigenspaces are free."""
    twin = problem.twin(names, **subsampling)
    largest = float(twin.evals.max())
    directions = computation.get_directions(group)
    surely_nonzero, perhaps_nonzero = (int((twin.evals > bound * largest).sum()) for bound in (1e-12, 1e-16))
    rank = len(directions) if criterion == "all" else surely_nonzero
    assert surely_nonzero <= rank <= perhaps_nonzero
    expected = {"top-1": 1, "top-10": min(10, rank), "all": rank}[criterion]
    assert len(directions) == expected
    torch.testing.assert_close(directions.evals, twin.evals[-expected:], rtol=1e-7, atol=1e-11 * largest)
    # the Gram matrix: all its eigenvalues are those of the GGN, the others are zero
    torch.testing.assert_close(directions.all_evals[-rank:], twin.evals[-rank:], rtol=1e-7, atol=1e-11 * largest)
    assert bool((directions.all_evals[:-rank].abs() < 1e-11 * largest).all())

    # evecs are orthonormal, and so are the eigenvectors that they give: they satisfy the eigenvalue equation
    identity = torch.eye(expected, dtype=torch.float64)
    vectors = torch.cat([vector.flatten(1) for vector in directions.eigenvectors()], dim=1).T  # [P, K]
    tolerance = 1e-14 * largest / float(directions.evals.min())  # rounding, amplified as 1/√λ twice
    from_parameters = directions.vectors is not None  # the GGN itself was decomposed, and the evecs follow
    for given, follows in ((directions.evecs, from_parameters), (vectors, not from_parameters)):
        torch.testing.assert_close(given.T @ given, identity, rtol=0, atol=1e-9 + tolerance * follows)
    ggn = twin.vectors @ torch.diag(twin.evals) @ twin.vectors.T
    torch.testing.assert_close(ggn @ vectors, vectors * directions.evals, rtol=0, atol=1e-9 * largest)

    # gammas and lambdas: the twin's per-sample derivatives along these very eigenvectors
    block = problem.block(names)
    grad, ggn_samples = subsampling.get("subsampling_grad"), subsampling.get("subsampling_ggn")
    gradients = problem.gradients[:, block] if grad is None else problem.gradients[grad][:, block]
    ggns = problem.ggns[:, block[:, None], block]
    ggns = ggns if ggn_samples is None else ggns[ggn_samples]
    torch.testing.assert_close(directions.gammas, gradients @ vectors, rtol=1e-6, atol=1e-8)
    lambdas = torch.einsum("pk,npq,qk->nk", vectors, ggns, vectors)
    torch.testing.assert_close(directions.lambdas, lambdas, rtol=1e-6, atol=1e-8 * largest)

    # the step: as these directions make it, and where the choice is unique, as the twin's own make it
    step = parameters_to_vector(computation.get_result(group))
    reduce = torch.mean if twin.reduction == "mean" else torch.sum
    coefficients = -reduce(gradients @ vectors, 0) / (reduce(lambdas, 0) + DAMPING)
    torch.testing.assert_close(step, vectors @ coefficients, rtol=1e-6, atol=1e-7)
    first = len(twin.evals) - expected
    if first == 0 or twin.evals[first] - twin.evals[first - 1] > 1e-6 * largest or expected == rank:
        torch.testing.assert_close(step, twin.step(range(first, len(twin.evals)), DAMPING), rtol=1e-6, atol=1e-8)
    assert [part.shape for part in computation.get_result(group)] == [p.shape for p in group["params"]]


@pytest.mark.parametrize(("case", "loss", "criterion"), covering(CASES, LOSSES, CRITERIA))
def test_one_group(case, loss, criterion):
    problem = make_problem(case, loss, "mean" if loss == "cross-entropy" else "sum")
    names = GROUPINGS["one"](problem.model)[0]
    group = group_of(problem, names, CRITERIA[criterion], lambda evals, *_: torch.full_like(evals, DAMPING))
    assert_group_matches_twin(problem, run(problem, [group]), group, names, criterion)


@pytest.mark.parametrize(
    ("case", "subsampling", "reduction"),
    covering(
        ["mlp-relu", "conv2d", "linear-2-extra", "embedding", "batch-norm-2d"],
        [(grad, ggn) for grad in GRAD for ggn in GGN],
        ["mean", "sum"],
    ),
    ids=str,
)
def test_subsampling(case, subsampling, reduction):
    grad, ggn = subsampling
    problem = make_problem(case, "cross-entropy", reduction)
    names = GROUPINGS["one"](problem.model)[0]
    group = group_of(problem, names, {"kind": "all"}, {"kind": "constant", "value": DAMPING})
    subsampling = {"subsampling_grad": grad, "subsampling_ggn": ggn}
    computation = run(problem, [group], **subsampling)
    assert_group_matches_twin(problem, computation, group, names, "all", **subsampling)
    directions = computation.get_directions(group)
    assert directions.gammas.shape[0] == (4 if grad is None else len(grad))
    assert directions.lambdas.shape[0] == (4 if ggn is None else len(ggn))


@pytest.mark.parametrize(("case", "grouping", "criterion"), covering(CASES, GROUPINGS, CRITERIA))
def test_groupings(case, grouping, criterion):
    problem = make_problem(case, "mse", "mean")
    named = GROUPINGS[grouping](problem.model)
    damping = {"kind": "constant", "value": DAMPING}
    groups = [group_of(problem, names, CRITERIA[criterion], damping) for names in named]
    computation = run(problem, groups)
    for group, names in zip(groups, named, strict=True):
        assert_group_matches_twin(problem, computation, group, names, criterion)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", ["mlp-relu", "outputs-with-axes"])
def test_reductions(case, loss, reduction):
    """Outputs [N, C] and [N, C, L], whose positions have Hessians of their own."""
    problem = make_problem(case, loss, reduction)
    names = GROUPINGS["one"](problem.model)[0]
    group = group_of(problem, names, {"kind": "all"}, {"kind": "constant", "value": DAMPING})
    assert_group_matches_twin(problem, run(problem, [group]), group, names, "all")
