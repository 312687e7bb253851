"""Replicas in several processes: their gradients are averaged, and no local step is made of the average."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional as F

from ddn_core import DirectionalDampedNewton
from ddn_core.errors import CurvatureError


def _train(rank, store, failures):
    """Make a step of one replica on data of its own, and leave the message of the error."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        torch.manual_seed(0)
        model = nn.parallel.DistributedDataParallel(nn.Linear(4, 3))
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer = DirectionalDampedNewton(model.named_parameters())
        torch.manual_seed(1 + rank)
        try:
            optimizer.backward(F.cross_entropy(model(torch.randn(8, 4)), torch.randint(0, 3, (8,))))
            optimizer.step()
        except CurvatureError as error:
            assert all(torch.equal(own, old) for own, old in zip(model.parameters(), before, strict=True))
            (failures / str(rank)).write_text(str(error))
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_replicas_of_distributed_data_parallel_are_refused(tmp_path):
    multiprocessing.spawn(_train, (tmp_path / "store", tmp_path), nprocs=2)
    for rank in range(2):
        assert "DistributedDataParallel averages gradients over processes" in (tmp_path / str(rank)).read_text()
