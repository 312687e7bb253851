"""The built-in problems: what they load, how they are drawn, that they train, and what they refuse."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ddn_core.config import parse_config
from ddn_core.errors import PluginError
from ddn_core.plugins.registry import installed_registry
from ddn_core.runs.events import EvaluationEvent
from ddn_core.training.loop import Training
from ddn_core.training.problem import load_problem
from ddn_plugins.problems._batches import split, training_batches
from ddn_plugins.problems._batches import test_batches as batches_in_order
from ddn_plugins.problems._digits import load_digits

ROOT = Path(__file__).parents[1]
CONSTANT = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 0.2}, "lr": 0.5}
LEVENBERG = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "levenberg-marquardt"}}
SMALL = {
    "digits-mlp": {"hidden": [16]},
    "digits-cnn": {"channels": [4, 8]},
    "digits-autoencoder": {"hidden": [20, 5], "batch_size": 16},
    "regression-1d": {"hidden": [10]},
    "sinc": {"samples": 2000, "batch_size": 100},
    "spirals": {"samples": 400, "batch_size": 40},
    "image-folder": {"image_size": 8, "batch_size": 5, "widths": [3]},
}


def config_of(kind, path="pictures", epochs=1, curvature=None, **fields):
    place = {"path": str(path)} if kind == "image-folder" else {}
    group = LEVENBERG if kind == "regression-1d" else CONSTANT
    table = {"problem": {"kind": kind, **SMALL[kind], **place, **fields}, "groups": [group]}
    return parse_config({**table, "training": {"epochs": epochs, "dtype": "float64"}, "curvature": curvature or {}})


def parts_of(kind, path="pictures", **fields):
    return load_problem(config_of(kind, path, **fields), "train.toml")


def test_all_problems_are_tried():
    (builtin,) = (record for record in installed_registry().plugins() if record.name == "builtin")
    assert set(builtin.components["problem"]) == set(SMALL)


@pytest.mark.parametrize("kind", SMALL)
def test_every_problem_trains(kind, pictures):
    curvature = {"kind": "ggn-mc", "mc_samples": 1} if kind == "digits-autoencoder" else {}
    epochs = {"regression-1d": 40, "spirals": 8, "image-folder": 4}.get(kind, 1)
    config = config_of(kind, pictures, epochs=epochs, curvature=curvature)
    before = load_problem(config, "train.toml")
    inputs, targets = next(iter(before.train_batches))
    outputs = before.model.to(torch.float64)(inputs.double()).detach()
    loss = float(before.loss_function(outputs, targets.double() if targets.is_floating_point() else targets))
    training = Training.of(config, "train.toml")
    events = list(training.events())
    assert events[0].loss == pytest.approx(loss)  # the batches are repeatable
    last = [event for event in events if isinstance(event, EvaluationEvent)][-1]
    assert last.test_loss < 0.95 * loss
    assert all(math.isfinite(value) for value in [last.train_loss, *last.test_metrics.values()])


@pytest.mark.parametrize("kind", SMALL)
def test_a_seed_determines_a_problem(kind, pictures):
    def drawn(seed):
        torch.manual_seed(seed)
        parts = config_of(kind, pictures).problem.load()
        batches = [*parts.train_batches, *parts.train_batches, *parts.test_batches]
        return [*parts.model.state_dict().values(), *(tensor for batch in batches for tensor in batch)]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


SHAPES = {
    "digits-mlp": ((128, 64), (128,), (128, 10), 11, 1437),
    "digits-cnn": ((32, 1, 8, 8), (32,), (32, 10), 44, 1437),
    "digits-autoencoder": ((16, 64), (16, 64), (16, 64), 89, 1437),
    "regression-1d": ((256, 1), (256, 1), (256, 1), 1, 256),
    "sinc": ((100, 1), (100, 1), (100, 1), 20, 2000),
    "spirals": ((40, 2), (40,), (40, 2), 8, 320),
    "image-folder": ((5, 3, 8, 8), (5,), (5, 2), 4, 24),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_shapes(kind, pictures):
    inputs_shape, targets_shape, outputs_shape, count, samples = SHAPES[kind]
    parts = parts_of(kind, pictures)
    batches = list(parts.train_batches)
    assert len(batches) == len(parts.train_batches) == count
    for inputs, targets in batches:
        assert inputs.shape == inputs_shape
        assert targets.shape == targets_shape
    rows = torch.cat([inputs for inputs, _ in batches]).flatten(1)
    assert len(rows) == samples - samples % inputs_shape[0]
    outputs = parts.model(inputs.float())
    assert outputs.shape == outputs_shape
    for metric in parts.metrics.values():
        assert metric(outputs, targets).shape == (inputs_shape[0],)


@pytest.mark.parametrize(("kind", "batch_size"), [("digits-mlp", 128), ("digits-cnn", 32)])
def test_the_order_of_the_draws_of_the_digits(kind, batch_size):
    """Model, split, seed of the batches: runs that were recorded depend on it."""
    parts = parts_of(kind)
    left = torch.rand(2)
    torch.manual_seed(0)
    for layer in parts.model:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    images, classes = load_digits()
    order = torch.randperm(1797)
    seeded = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    assert torch.equal(left, torch.rand(2))
    dataset = TensorDataset(images[order[359:]], classes[order[359:]])
    plain = DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True, generator=seeded)
    for _ in range(2):
        for (inputs, targets), (images, classes) in zip(parts.train_batches, plain, strict=True):
            assert torch.equal(inputs.flatten(1), images)
            assert torch.equal(targets, classes)


def test_batches_are_those_of_a_plain_loader():
    inputs, targets = torch.randn(53, 3), torch.arange(53)
    torch.manual_seed(4)
    ours = training_batches((inputs, targets), 8)
    mine = [*ours, *ours]
    left = torch.rand(2)
    torch.manual_seed(4)
    seeded = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    dataset = TensorDataset(inputs, targets)
    plain = DataLoader(dataset, batch_size=8, shuffle=True, drop_last=True, generator=seeded)
    theirs = [*plain, *plain]
    assert torch.equal(left, torch.rand(2))
    assert len(ours) == len(plain) == 6
    assert len(mine) == 12
    for one, other in zip(mine, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    in_order = torch.cat([classes for _, classes in batches_in_order((inputs, targets))])
    assert torch.equal(in_order, targets)
    (train, _), (test, _) = split((targets, targets), 0.2)
    assert sorted([*train.tolist(), *test.tolist()]) == targets.tolist()
    assert len(test) == 11


def test_too_few_samples_for_a_batch():
    message = r"batch_size is 400, but there are only 320 training samples; lower batch_size"
    with pytest.raises(PluginError, match=message):
        parts_of("spirals", batch_size=400)


def test_the_schema_is_had_without_torch():
    code = (
        "import sys, ddn_plugins.problems as problems\n"
        "for problem in problems.ALL: problem.model_json_schema()\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'sklearn'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_autoencoder_is_mirrored():
    def widths(**fields):
        model = parts_of("digits-autoencoder", **fields).model
        return [layer.out_features for layer in model if isinstance(layer, torch.nn.Linear)]

    assert widths(hidden=[100, 50, 25, 10]) == [100, 50, 25, 10, 25, 50, 100, 64]
    assert widths(hidden=[7]) == [7, 64]
    inputs, targets = next(iter(parts_of("digits-autoencoder").train_batches))
    assert torch.equal(inputs, targets)


def test_the_curves():
    ((points, values),) = parts_of("regression-1d", frequencies=[1, 2.5]).train_batches
    assert points.dtype == values.dtype == torch.float64
    assert points[0] == -1
    assert points[-1] == 1
    expected = [math.sin(2 * math.pi * x) + math.sin(5 * math.pi * x) for x in points[:, 0].tolist()]
    torch.testing.assert_close(values[:, 0], torch.tensor(expected, dtype=torch.float64))
    parts = parts_of("sinc")
    between, values = next(iter(parts.test_batches))
    angles = 10 * math.pi * between
    torch.testing.assert_close(values, angles.sin() / angles)
    assert between.dtype == torch.float64
    points = torch.cat([points for points, _ in parts.train_batches])
    assert not set(points.flatten().tolist()) & set(between.flatten().tolist())


def test_the_spirals_interleave():
    points, spirals = config_of("spirals", noise=0.0, turns=2.0).problem._points()
    radii = points.norm(dim=1)
    angles = torch.atan2(points[:, 1], points[:, 0]) - 4 * math.pi * radii - math.pi * spirals
    torch.testing.assert_close(angles.cos(), torch.ones(len(points)))
    assert spirals.sum() == 200
    assert 0.1 <= float(radii.min()) < float(radii.max()) <= 1


def test_the_regression_goes_far_down():
    config = config_of("regression-1d", epochs=220, hidden=[30, 30])
    training = Training.of(config, "train.toml")
    assert len(list(training.events())) == 440
    assert training.history.steps[-1].loss < 1e-6


def test_the_plugin_of_the_documentation_trains():
    block = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "plugins.md").read_text(), re.DOTALL | re.MULTILINE)[
        -1
    ]
    assert len(block.splitlines()) <= 35
    namespace = {"__name__": "acme_ddn"}
    exec(compile(block, "acme_ddn.py", "exec", dont_inherit=True), namespace)
    (plane,) = namespace["ddn_problems"]()
    config = parse_config({"problem": plane(), "groups": [CONSTANT], "training": {"epochs": 10}})
    events = list(Training.of(config, "train.toml").events())
    assert events[-1].test_loss < 0.01 * events[0].loss
    assert set(events[-1].test_metrics) == {"absolute error"}
