"""The built-in problems: what they load, how they are drawn, that they train, and what they refuse."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from ddn_core.cli.training import EpochEvent, Training, load_problem
from ddn_core.config import parse_config
from ddn_core.errors import ConfigError, PluginError
from ddn_core.plugins.registry import installed_registry
from ddn_plugins.problems._batches import split, training_batches
from ddn_plugins.problems._batches import test_batches as batches_in_order
from ddn_plugins.problems._digits import load_digits
from ddn_plugins.problems._pictures import read_picture

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


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures: the left half is bright in one class, the right half in the other."""
    folder = tmp_path / "pictures"
    for name, offset in (("left", 0), ("right", 6)):
        (folder / name).mkdir(parents=True)
        for number in range(15):
            picture = Image.new("RGB", (12, 10), (10 * number, 20, 30))
            picture.paste((250, 240, 230 - number), (offset, 0, offset + 6, 10))
            picture.save(folder / name / f"{number:02}.{'png' if number % 2 else 'bmp'}")
    return folder


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
    last = [event for event in events if isinstance(event, EpochEvent)][-1]
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


def test_pictures_are_read(tmp_path):
    picture = Image.new("RGB", (4, 2), (255, 0, 51))
    picture.putpixel((0, 0), (0, 0, 0))
    picture.save(tmp_path / "a.png")
    red, green, blue = read_picture(tmp_path / "a.png", 2, 3)
    assert red[1].tolist() == [1, 1]
    assert green.tolist() == [[0, 0], [0, 0]]
    torch.testing.assert_close(blue[1], torch.tensor([0.2, 0.2]))
    assert red[0, 0] < red[0, 1]
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "b.png", exif=exif)
    torch.testing.assert_close(read_picture(tmp_path / "b.png", 2, 3)[0], red.flip(0, 1))
    picture.convert("L").save(tmp_path / "c.png")
    assert read_picture(tmp_path / "c.png", 4, 1).shape == (1, 4, 4)
    Image.new("RGBA", (3, 3), (0, 255, 0, 9)).save(tmp_path / "d.webp", lossless=True)
    assert read_picture(tmp_path / "d.webp", 3, 3)[1].tolist() == [[1.0] * 3] * 3
    Image.new("I;16", (2, 2), 999).save(tmp_path / "e.png")
    with pytest.raises(ValueError, match="more than 8 bits a channel, mode I;16"):
        read_picture(tmp_path / "e.png", 2, 1)


def test_train_and_test_folders(tmp_path, pictures):
    (tmp_path / "both").mkdir()
    pictures.rename(tmp_path / "both" / "train")
    for name, value in (("left", 255), ("right", 0)):
        (tmp_path / "both" / "test" / name).mkdir(parents=True)
        Image.new("L", (8, 8), value).save(tmp_path / "both" / "test" / name / "one.JPEG")
    parts = parts_of("image-folder", tmp_path / "both", channels=1)
    ((inputs, targets),) = parts.test_batches
    assert inputs.shape == (2, 1, 8, 8)
    assert inputs.flatten(1).mean(1).tolist() == [1, 0]
    assert targets.tolist() == [0, 1]
    assert sum(len(inputs) for inputs, _ in parts.train_batches) == 30
    (tmp_path / "both" / "test" / "up").mkdir()
    with pytest.raises(PluginError, match="train' lacks class 'up'; train and test need the same sub-folders"):
        parts_of("image-folder", tmp_path / "both")


def test_what_is_no_picture_is_left_out(pictures):
    for name in (".hidden.png", "notes.txt"):
        (pictures / "left" / name).write_text("nothing")
    (pictures / ".cache").mkdir()
    (pictures / "README.md").write_text("Pictures.")
    assert sum(len(inputs) for inputs, _ in parts_of("image-folder", pictures, batch_size=1).train_batches) == 24


def _without(pictures):
    for file in (pictures / "left").iterdir():
        file.unlink()


def _cut(pictures):
    file = pictures / "left" / "01.png"
    file.write_bytes(file.read_bytes()[:60])


def _garbage(pictures):
    for number in range(1, 9, 2):
        (pictures / "right" / f"{number:02}.png").write_text("no picture")


def _one_class(pictures):
    (pictures / "left").rename(pictures.parent / "elsewhere")


def _no_class(pictures):
    _one_class(pictures)
    (pictures / "right").rename(pictures.parent / "there")


def _a_file(pictures):
    pictures.rename(pictures.parent / "moved")
    pictures.write_text("")


MISTAKES = {
    "no folder": (lambda pictures: pictures.rename(pictures.parent / "moved"), "pictures'; let path name the folder"),
    "a file": (_a_file, "pictures' is a file; let path name the folder of pictures"),
    "no class": (_no_class, "pictures' has no sub-folders; sort the pictures into one for each class"),
    "one class": (_one_class, "pictures' has one class, 'right', and two are needed; add a sub-folder"),
    "an empty class": (_without, "class 'left' has no picture in "),
    "a picture that is cut off": (_cut, "left/01.png' ("),
    "files that are no pictures": (_garbage, "and 1 more; mend or remove them"),
    "a large batch": (lambda pictures: None, "batch_size is 25, but there are only 24 training pictures in '"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_with_pictures(mistake, pictures):
    change, message = MISTAKES[mistake]
    change(pictures)
    with pytest.raises(PluginError) as error:
        parts_of("image-folder", pictures, batch_size=25)
    assert str(error.value).startswith("problem 'image-folder' (ddn-core ")
    assert message in str(error.value)
    assert str(pictures) in str(error.value)


def test_pictures_that_are_pooled_away():
    with pytest.raises(ConfigError, match=r"image_size cannot be 4 with 3 widths.*has to be at least 8"):
        config_of("image-folder", image_size=4, widths=[2, 2, 2])
    with pytest.raises(ConfigError, match=r"problem\.channels: input should be 1 or 3"):
        config_of("image-folder", channels=2)
    with pytest.raises(ConfigError, match=r"problem\.path: "):
        config_of("image-folder", path="")


def test_pictures_without_pillow(pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(PluginError, match=r"image-folder needs Pillow: pip install 'ddn-core\[train\]'"):
        parts_of("image-folder", pictures)


def test_the_command_trains_on_pictures(pictures):
    table = {"problem": {"kind": "image-folder", "path": "pictures", **SMALL["image-folder"]}}
    table |= {"groups": [CONSTANT], "training": {"epochs": 8}}
    (pictures.parent / "train.json").write_text(json.dumps(table))
    command = [sys.executable, "-W", "error", "-c", "from ddn_core.cli import main; main()", "train", "train.json"]
    options = {"cwd": pictures.parent, "capture_output": True, "text": True, "timeout": 120}
    result = subprocess.run([*command, "--out", "run"], **options)
    assert result.returncode == 0, result.stderr
    (pictures / "left" / "03.png").write_text("broken")
    result = subprocess.run([*command, "--out", "again"], **options)
    assert result.returncode == 1
    assert "cannot read 'pictures/left/03.png' (cannot identify image file" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
