"""Settings and fixtures that all tests share."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the workers share the cores, and so do the processes they start

import random
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import register_random
from PIL import Image
from torch import nn

from tests.profiles import load_profile

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own; the first optimizer imports this, whichever test comes first
    import torch._dynamo

load_profile()


class _TorchGenerator:
    """Torch's own generator as hypothesis wants it: each example of a property test starts from the same state."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_torch_generator = _TorchGenerator()  # hypothesis itself keeps only a weak reference
register_random(_torch_generator)


def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    _seed()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    """Seed before a fixture that several tests share, too: which of them is the first depends on their order."""
    if fixturedef.scope != "function":
        _seed()
    return (yield)


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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Print one last line that says how many tests were skipped, and why."""
    result = yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.getreports("skipped") if reporter is not None else []
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons:
        counts = "; ".join(f"{count} ({reason})" for reason, count in reasons.most_common())
        reporter.write_line(f"Skipped tests: {counts}")
    return result
