"""What several rooms' tests share."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the workers share the cores, and so do the processes they start

import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import nn

# Where a change is judged, the same examples each time; elsewhere new ones, which is how a rare failure is found.
settings.register_profile("judged", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("judged")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def mlp():
    """A small model, its data and its loss."""
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    return model, nn.CrossEntropyLoss(), torch.rand(8, 5), torch.randint(0, 3, (8,))


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
