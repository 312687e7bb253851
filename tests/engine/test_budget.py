"""The memory budget: plans that fit, refusals that are true, and what is measured."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from ddn_core import DirectionalDampedNewton
from ddn_core.engine import GroupRequest, Subsampling, estimate, root_of
from ddn_core.engine.capture import backward_pass, carried, columns, settings
from ddn_core.engine.capture.assembly import Assembly
from ddn_core.engine.capture.backward_pass import CurvaturePass
from ddn_core.engine.capture.memory import free_bytes
from ddn_core.errors import MemoryBudgetError
from tests.engine.memory_cases import ALL, CURVATURES, MODELS, TOP, AllocatedBytes, Trainer, noted_plans

ROOT = Path(__file__).parents[2]


def _smallest(trainer, monkeypatch):
    """Return the plan without a budget, and the bytes of the smallest slices."""
    plans = noted_plans(monkeypatch)
    trainer.backward()
    return plans[0], plans[0]._with(1, 1).bytes


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("criterion", [ALL, TOP], ids=["all", "top-3"])
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("name", ["convolutions", "sequence"])
def test_a_small_budget_means_more_chunks_and_slices_and_the_same_step(name, curvature, criterion, share, monkeypatch):
    settings = CURVATURES[curvature]
    expected = Trainer(MODELS[name], criterion, **settings).step()
    plan, smallest = _smallest(Trainer(MODELS[name], criterion, **settings), monkeypatch)
    budget = int(smallest + share * (plan._with(2**9, 2**9).bytes - smallest))
    chunks = _noted_chunks(monkeypatch)
    plans = noted_plans(monkeypatch)
    step = Trainer(MODELS[name], criterion, memory_budget=budget, **settings).step()
    assert plans[-1].bytes <= budget
    assert plans[-1].slice_elements <= 2**11
    assert len(chunks) > 1
    assert [place for chunk in chunks for place in range(plan.per_sample)[chunk]] == list(range(plan.per_sample))
    torch.testing.assert_close(step, expected, rtol=1e-9, atol=1e-11)


def _noted_chunks(monkeypatch):
    """Return a list that the numbers of the columns of each chunk are added to."""
    chunks, add = [], Assembly.add

    def note(assembly, columns, given, only=None):
        if only is None:  # the gradients of the pass itself arrive at one site after the other
            chunks.append(columns)
        add(assembly, columns, given, only)

    monkeypatch.setattr(Assembly, "add", note)
    return chunks


@pytest.mark.parametrize("name", MODELS)
def test_a_budget_that_is_too_small_is_refused_before_anything_is_allocated(name, monkeypatch):
    _, smallest = _smallest(Trainer(MODELS[name]), monkeypatch)
    trainer = Trainer(MODELS[name], memory_budget=smallest - 1)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]

    def refuse(*arguments, **options):
        raise AssertionError("allocated")

    with monkeypatch.context() as context:
        context.setattr(backward_pass, "Assembly", refuse)
        context.setattr(carried, "carry", refuse)
        with pytest.raises(MemoryBudgetError, match="memory budget is"):
            trainer.backward()
    for parameter, old in zip(trainer.model.parameters(), before, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, old)
    fitting = Trainer(MODELS[name], memory_budget=smallest)
    assert float(fitting.step().norm()) > 0


@pytest.mark.parametrize("chunks", ["one chunk", "chunks of one column"])
@pytest.mark.parametrize("curvature", CURVATURES)
def test_verifying_a_plan_holds_one_more_column_at_each_site(curvature, chunks, monkeypatch):
    """Counted in bytes, for columns that are carried one by one."""
    monkeypatch.setattr(columns, "BATCHED_ELEMENTS", 0)
    given = CURVATURES[curvature]
    with monkeypatch.context() as context:
        plan, smallest = _smallest(Trainer(MODELS["convolutions"], **given), context)
    most, carry = [], CurvaturePass._carry

    def note(*arguments):
        with AllocatedBytes() as allocated:
            is_fitting = carry(*arguments)
        most.append(allocated.most)
        return is_fitting

    monkeypatch.setattr(CurvaturePass, "_carry", note)
    budget = None if chunks == "one chunk" else smallest
    trainer = Trainer(MODELS["convolutions"], memory_budget=budget, **given)
    for _ in range(3):  # the third step does not verify the plan
        trainer.step()
    one_column = plan.itemsize * plan.batch * plan.site_elements
    assert most[2] < most[0] == most[1] <= most[2] + one_column + 2000  # and the powers


GROUPINGS = {"one group": [["*"]], "a group for each layer": None}


def _requests(model, grouping):
    names = {name: id(parameter) for name, parameter in model.named_parameters()}
    groups = [list(names)]
    if grouping != "one group":
        layers = dict.fromkeys(name.split(".")[0] for name in names)
        groups = [[name for name in names if name.startswith(f"{layer}.")] for layer in layers]
    return [GroupRequest({names[name]: name for name in group}, None, False) for group in groups]


def _targets(samples):
    return torch.zeros(samples, dtype=torch.long)


def _fits(make, budget, samples, mc_samples, requests=None):
    """Return whether a batch would fit, and what is said if it does not; nothing is allocated."""
    model = make(1)[0]
    grouping = requests or "one group"
    requests = _requests(model, grouping) if isinstance(grouping, str) else grouping(model)
    inputs = torch.empty(samples, *make(1)[1].shape[1:], device="meta")
    try:
        estimate(model, nn.CrossEntropyLoss(), inputs, _targets(samples), requests, root_of(mc_samples), None, budget)
    except MemoryBudgetError as error:
        return False, str(error)
    return True, ""


@pytest.mark.parametrize(
    ("name", "grouping", "mc_samples", "share"),
    [
        # `make test` has every pair of the four
        pytest.param(name, grouping, mc_samples, share, marks=pytest.mark.slow if (i + j + k + m) % 2 else ())
        for i, name in enumerate(MODELS)
        for j, grouping in enumerate(GROUPINGS)
        for k, mc_samples in enumerate([0, 6])
        for m, share in enumerate([0.9, 0.5, 0.2, 0.05])
    ],
)
def test_what_a_refusal_says_fits_does_fit_and_what_is_larger_does_not(name, grouping, mc_samples, share):
    make, samples = MODELS[name], 40
    model, inputs, _ = make(samples)
    plan, _ = estimate(
        model, nn.CrossEntropyLoss(), inputs, _targets(samples), _requests(model, grouping), root_of(mc_samples)
    )
    budget = int(share * plan._with(1, 1).bytes)
    fits, message = _fits(make, budget, samples, mc_samples, grouping)
    assert not fits
    fitting = partial(_fits, make, budget, requests=grouping)
    if found := re.search(r"batches of at most (\d+) sample", message):
        most = int(found[1])
        assert fitting(most, mc_samples)[0]
        assert most + 1 == samples or not fitting(most + 1, mc_samples)[0]
    else:
        assert not fitting(1, mc_samples)[0]
    if found := re.search(r"mc_samples = (\d+)", message):
        most = int(found[1])
        assert fitting(samples, most)[0]
        assert most + 1 == (mc_samples or 4) or not fitting(samples, most + 1)[0]
    else:
        assert not fitting(samples, 1)[0]
    if found := re.search(r"freezing all groups but one of ([\d, ]+)", message):
        for number in map(int, found[1].split(",")):
            alone = lambda model, number=number: [_requests(model, grouping)[number]]  # noqa: E731
            assert _fits(make, budget, samples, mc_samples, alone)[0]
    elif grouping != "one group":
        for number in range(len(_requests(model, grouping))):
            alone = lambda model, number=number: [_requests(model, grouping)[number]]  # noqa: E731
            assert not _fits(make, budget, samples, mc_samples, alone)[0]


@pytest.mark.parametrize("case", ["convolutions", "perceptron"])
def test_advice_holds_for_real_passes(case, monkeypatch):
    """The batch, the sub-sample and the number of Monte-Carlo samples that a refusal names work; larger ones do not."""
    _, smallest = _smallest(Trainer(MODELS[case]), monkeypatch)
    budget = int(0.8 * smallest)
    with pytest.raises(MemoryBudgetError) as refusal:
        Trainer(MODELS[case], memory_budget=budget).backward()
    advice = {
        "samples": r"batches of at most (\d+) sample",
        "subsampling_ggn": r"a subsampling_ggn of at most (\d+) sample",
        "mc_samples": r"mc_samples = (\d+)",
    }
    found = {name: re.search(pattern, str(refusal.value)) for name, pattern in advice.items()}
    most = {name: int(match[1]) for name, match in found.items() if match is not None}
    assert most["samples"] >= most.get("subsampling_ggn", 0)  # columns are carried for the whole batch
    for name, count in most.items():
        make = {
            "samples": lambda count: {"samples": count},
            "subsampling_ggn": lambda count: {"subsampling_ggn": list(range(count))},
            "mc_samples": lambda count: {"kind": "ggn-mc", "mc_samples": count},
        }[name]
        Trainer(MODELS[case], memory_budget=budget, **make(count)).step()
        with pytest.raises(MemoryBudgetError):
            Trainer(MODELS[case], memory_budget=budget, **make(count + 1)).backward()


def test_the_budget_auto_is_what_is_free(monkeypatch):
    free = free_bytes(torch.device("cpu"))
    assert free is None or 10**6 < free < 2**50
    expected = Trainer(MODELS["perceptron"]).step()
    torch.testing.assert_close(Trainer(MODELS["perceptron"], memory_budget="auto").step(), expected)
    monkeypatch.setattr(settings, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(settings, "ALWAYS_FREE", 0)
    with pytest.raises(MemoryBudgetError, match="memory budget is 1 kB"):
        Trainer(MODELS["perceptron"], memory_budget="auto").backward()
    monkeypatch.setattr(settings, "free_bytes", lambda device: None)  # as where the system does not report it
    torch.testing.assert_close(Trainer(MODELS["perceptron"], memory_budget="auto").step(), expected)


def test_a_large_vocabulary_is_refused_by_default_rather_than_by_the_allocator():
    """Its columns would have a terabyte; one Monte-Carlo sample, which the error advises, fits."""
    model, inputs = nn.Linear(4, 16_000), torch.randn(128, 4)
    loss = nn.functional.cross_entropy(model(inputs), torch.arange(128))
    optimizer = DirectionalDampedNewton(model.named_parameters(), damping=1.0)
    with pytest.raises(MemoryBudgetError, match=r"needs .* GB .*at most \d+ Monte-Carlo samples"):
        optimizer.backward(loss)
    assert model.weight.grad is None
    table = {"params": ["*"], "criterion": TOP, "damping": {"kind": "constant", "value": 0.1}}
    optimizer = DirectionalDampedNewton(
        model.named_parameters(), [table], curvature={"kind": "ggn-mc", "mc_samples": 1, "seed": 0}
    )
    optimizer.backward(loss)
    optimizer.step()
    assert optimizer.last_step[0].directions == 3


# What is measured


def _status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _peak(function):
    """Return by how many bytes the process grows at most, while a function runs."""
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    function()
    return _status("VmHWM") - before


def _wide_convolutions(samples):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 64, 5), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(64, 96, 3), nn.ReLU()),
        *(nn.MaxPool2d(3, 2, 1), nn.Conv2d(96, 128, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4608, 10)),
    )
    return model, torch.randn(samples, 3, 32, 32), torch.arange(samples) % 10


def _wide_perceptron(samples):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    return model, torch.randn(samples, 64), torch.arange(samples) % 10


MEASURED = {
    "convolutions": (_wide_convolutions, 48, TOP, {}, 0.05),
    "convolutions, Monte Carlo": (_wide_convolutions, 48, TOP, {"kind": "ggn-mc", "mc_samples": 1}, 0.05),
    "convolutions, sub-sample": (_wide_convolutions, 48, TOP, {"subsampling_ggn": list(range(16))}, 0.05),
    "convolutions, three choices": (
        _wide_convolutions,
        48,
        TOP,
        {
            "subsampling_ggn": list(range(8)),
            "subsampling_lambdas": list(range(8, 16)),
            "subsampling_grad": list(range(24, 40)),
        },
        0.05,
    ),
    "Gram matrix, solve": (_wide_perceptron, 150, ALL, {}, 1.0),
}


def measure(name):
    """Print what a gradient and a step with a budget take; called in a process of its own."""
    make, samples, criterion, curvature, share = MEASURED[name]
    model, inputs, targets = make(samples)
    requests = _requests(model, "one group")
    chosen = {name: curvature[name] for name in curvature if name.startswith("subsampling")}
    subsampling = Subsampling(**{name.removeprefix("subsampling_"): chosen[name] for name in chosen})
    mc_samples = curvature.get("mc_samples", 0)
    plan, _ = estimate(model, nn.CrossEntropyLoss(), inputs, targets, requests, root_of(mc_samples), subsampling)
    smallest = plan._with(1, 1).bytes
    budget = int(smallest + share * (plan.bytes - smallest))
    loss_function = nn.CrossEntropyLoss()

    def steps(count=3):  # one that makes the plan, one that verifies it, and one that does neither
        table = {"params": ["*"], "criterion": criterion, "damping": {"kind": "constant", "value": 1e-4}}
        settings = {**curvature, "memory_budget": budget}
        optimizer = DirectionalDampedNewton(model.named_parameters(), [table], lr=1e-3, curvature=settings)
        for _ in range(count):
            optimizer.backward(loss_function(model(inputs), targets))
            optimizer.step()
            optimizer.zero_grad()

    def gradient():
        loss_function(model(inputs), targets).backward()

    steps(1)  # what is made once: LAPACK keeps 8 MB of work space after its first large factorization in float64
    gradient()
    model.zero_grad()
    found = {"budget": budget, "gradient": _peak(gradient)}
    model.zero_grad()
    found["step"] = _peak(steps)
    print(json.dumps(found))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be measured here")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=() if name == "convolutions, sub-sample" else pytest.mark.slow,
        )
        for name in MEASURED
    ],
)
def test_a_step_stays_within_its_budget(name):
    """Measured beyond the gradient's memory, in the first three steps, with 1 MB for what is made once.

    In repeated runs the figures differed by less than 0.4 MB. The convolutions took 69.7 MB of 111.5 MB, in the step that
    verifies the plan, and 58.5 MB in later steps.

    The allocator gives back at once what is freed: else what one pass leaves behind hides what the next one takes.
    """
    code = f"from tests.engine.test_budget import measure; measure({name!r})"
    allocator = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = {**os.environ, **allocator, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    print(found)
    assert found["step"] - found["gradient"] < found["budget"] + 1e6
