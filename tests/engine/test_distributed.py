"""Replicas in several processes: they exchange gradients and no curvature, so that no local step is made of both."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn import functional as F

from ddn_core import DirectionalDampedNewton
from ddn_core.errors import CurvatureError


def _refusal(model, optimizer, inputs, targets):
    """Return the message of a pass that is refused, after which no gradient is there and nothing has moved."""
    parameters = optimizer.param_groups[0]["params"]
    before = [parameter.detach().clone() for parameter in parameters]
    with pytest.raises(CurvatureError) as error:
        optimizer.backward(F.cross_entropy(model(inputs), targets))
    assert all(parameter.grad is None for parameter in parameters)
    assert all(torch.equal(own, old) for own, old in zip(parameters, before, strict=True))
    return str(error.value)


def _train(rank, store, found):
    """Begin the training of replicas, and then train a model of this process alone."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        torch.manual_seed(0)
        model, inputs, targets = nn.Linear(4, 3), torch.randn(8, 4), torch.randint(0, 3, (8,))
        wrapped = nn.parallel.DistributedDataParallel(model)  # the first batch is the same for both
        messages = [_refusal(wrapped, DirectionalDampedNewton(model.named_parameters()), inputs, targets)]
        messages += [_refusal(wrapped, DirectionalDampedNewton(wrapped.named_parameters()), inputs, targets)]
        torch.manual_seed(rank)
        model, inputs = nn.Linear(4, 3), torch.randn(8, 4)
        optimizer = DirectionalDampedNewton(model.named_parameters(), damping=0.1)
        optimizer.backward(F.cross_entropy(model(inputs), targets))
        optimizer.step()
        messages.append(f"{optimizer.step_count} step")
        (found / str(rank)).write_text("\n".join(messages))
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_replicas_are_refused_and_processes_with_models_of_their_own_are_not(tmp_path):
    multiprocessing.spawn(_train, (tmp_path / "store", tmp_path), nprocs=2)
    for rank in range(2):
        *messages, alone = (tmp_path / str(rank)).read_text().splitlines()
        assert len(messages) == 2
        for message in messages:
            assert "2 processes train the model together (DistributedDataParallel)" in message
        assert alone == "1 step"


def _one_process(store, wrap):
    """Return a model in a wrapper, in a group of this process alone, and a batch."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    torch.manual_seed(0)
    return wrap(nn.Linear(4, 3)), torch.randn(8, 4), torch.randint(0, 3, (8,))


@pytest.mark.parametrize("several", [False, True])
def test_a_wrapper_in_one_process_changes_nothing(several, tmp_path, monkeypatch):
    """In a group of several processes, the same model is refused."""
    wrapped, inputs, targets = _one_process(tmp_path / "store", nn.parallel.DistributedDataParallel)
    try:
        optimizer = DirectionalDampedNewton(wrapped.named_parameters())
        if several:
            monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
            assert "DistributedDataParallel" in _refusal(wrapped, optimizer, inputs, targets)
        else:
            optimizer.backward(F.cross_entropy(wrapped(inputs), targets))
            optimizer.step()
            assert optimizer.step_count == 1
    finally:
        distributed.destroy_process_group()


def _flattened(model):
    from torch.distributed.fsdp import FullyShardedDataParallel  # here, since it takes a second to import

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def _sharded(model):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning")  # for a process alone
@pytest.mark.parametrize(("wrap", "name"), [(_flattened, "FullyShardedDataParallel"), (_sharded, "DTensor")])
def test_sharded_parameters_are_refused(wrap, name, tmp_path, monkeypatch):
    wrapped, inputs, targets = _one_process(tmp_path / "store", wrap)
    try:
        monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
        assert name in _refusal(wrapped, DirectionalDampedNewton(wrapped.named_parameters()), inputs, targets)
    finally:
        distributed.destroy_process_group()
