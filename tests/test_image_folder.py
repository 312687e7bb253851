"""The problem `image-folder`: what it reads, what it leaves out, and what it refuses."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import Image

from ddn_core.errors import ConfigError, PluginError
from ddn_plugins.problems._pictures import read_picture
from tests.commands import ddn
from tests.test_problems import CONSTANT, SMALL, config_of, parts_of


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
    with pytest.raises(ValueError, match="more than 8 bits per channel, mode I"):
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
    "no folder": (lambda pictures: pictures.rename(pictures.parent / "moved"), "pictures'; set path to the folder"),
    "a file": (_a_file, "pictures' is a file; set path to the folder of pictures"),
    "no class": (_no_class, "pictures' has no sub-folders; sort the pictures into one sub-folder per class"),
    "one class": (_one_class, "pictures' has only one class, 'right', but two are needed; add a sub-folder"),
    "an empty class": (_without, "class 'left' has no picture in "),
    "a picture that is cut off": (_cut, "left/01.png' ("),
    "files that are no pictures": (_garbage, "and 1 more; repair or remove them"),
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
    with pytest.raises(ConfigError, match=r"image_size cannot be 4 with 3 widths.*set it to 8 or more"):
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
    result = ddn("train", "train.json", "--out", "run", cwd=pictures.parent)
    assert result.returncode == 0, result.stderr
    (pictures / "left" / "03.png").write_text("broken")
    result = ddn("train", "train.json", "--out", "again", cwd=pictures.parent)
    assert result.returncode == 1
    assert "cannot read 'pictures/left/03.png' (cannot identify image file" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
