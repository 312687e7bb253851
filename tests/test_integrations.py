"""Lightning and TensorBoard, the real ones: trainers that train, event files that are read back."""

from __future__ import annotations

import copy
import logging
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import DataLoader, TensorDataset

from ddn_core import DirectionalDampedNewton
from ddn_core.config.presets import PRESETS
from ddn_core.errors import ArgumentError, CurvatureError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they say while they are imported is not ours
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.plugins import MixedPrecision
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    from ddn_core.integrations.lightning import CurvatureModule
    from ddn_core.integrations.tensorboard import write_step

GROUP = {"params": ["*"], "criterion": {"kind": "all"}, "damping": {"kind": "constant", "value": 0.5}}
LIGHTNING = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",  # of a loader that is meant to be small
    "ignore:.*LeafSpec.*:FutureWarning",  # of what torch deprecated and Lightning uses
    "ignore:.*isinstance.treespec.*:FutureWarning",
    "ignore:.*logging interval.*",
)


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(24, 5, generator=generator), torch.randint(0, 3, (24,), generator=generator)


def flat(model):
    return parameters_to_vector(model.parameters()).detach().clone()


class Plain(LightningModule):
    """A module as one writes it, without anything of ours."""

    def __init__(self, group=GROUP, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
        self.loss_function = nn.CrossEntropyLoss()
        self.group, self.settings = group, settings

    def training_step(self, batch, index):
        return self.loss_function(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return DirectionalDampedNewton(self.model.named_parameters(), [self.group], lr=0.5, **self.settings)


class Mixed(CurvatureModule, Plain):
    """The same with the mixin."""


def trained(module, batch_size=8, epochs=2, **settings):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **settings,
    )
    trainer.fit(module, DataLoader(TensorDataset(*data()), batch_size=batch_size))
    return module


def by_hand(batch_size=8, epochs=2, group=GROUP, with_loss=False, **settings):
    module = Plain(group, **settings)
    optimizer = module.configure_optimizers()
    X, y = data()
    for _ in range(epochs):
        for start in range(0, len(X), batch_size):
            batch = X[start : start + batch_size], y[start : start + batch_size]
            optimizer.zero_grad()
            with optimizer.curvature():
                module.training_step(batch, 0).backward()
            optimizer.step((lambda batch=batch: module.training_step(batch, 0)) if with_loss else None)
    return flat(module)


@LIGHTNING
@pytest.mark.parametrize("kind", [Plain, Mixed])
def test_automatic_optimization_makes_the_steps_of_a_plain_loop(kind):
    assert torch.equal(flat(trained(kind())), by_hand())


@LIGHTNING
@pytest.mark.parametrize("kind", [Plain, Mixed])
def test_strategies_and_rules_get_the_loss_after_the_step(kind):
    group = {**GROUP, "damping": {"kind": "levenberg-marquardt", "initial": 1e-4}}
    module = trained(kind(group, step={"on_increase": "damp"}))
    torch.testing.assert_close(flat(module), by_hand(group=group, with_loss=True, step={"on_increase": "damp"}))


@LIGHTNING
def test_accumulated_micro_batches_make_the_step_of_the_whole_batch():
    module = trained(Mixed(), batch_size=4, accumulate_grad_batches=2)
    torch.testing.assert_close(flat(module), by_hand(batch_size=8), rtol=1e-4, atol=1e-6)


@LIGHTNING
def test_accumulation_and_a_loss_after_the_step_do_not_go_together():
    with pytest.raises(
        ArgumentError, match="accumulate_grad_batches is 2, and a strategy or a step rule needs the loss after the step"
    ):
        trained(Mixed(step={"on_increase": "undo"}), batch_size=4, accumulate_grad_batches=2)


@LIGHTNING
def test_a_strategy_that_uses_the_loss_does_without_it_for_micro_batches():
    (group,), step = PRESETS["averaged"]["groups"], PRESETS["averaged"]["step"]
    module = trained(Mixed(group, step=step), batch_size=4, accumulate_grad_batches=2)
    torch.testing.assert_close(flat(module), by_hand(batch_size=8, group=group, step=step), rtol=1e-4, atol=1e-6)
    assert not module.optimizers(use_pl_optimizer=False).requires_closure


@LIGHTNING
@pytest.mark.parametrize("kind", [Plain, Mixed])
def test_the_loss_after_the_step_has_the_same_dropout(kind):
    group = {**GROUP, "damping": {"kind": "levenberg-marquardt"}, "lr": 0.0}
    losses = []

    class Random(kind):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            losses.append(float(loss.detach()))
            return loss

    module = Random(group)
    module.model.insert(1, nn.Dropout(0.5))
    trained(module, batch_size=24, epochs=2)
    before, after, second, second_after = losses
    assert before == after != second == second_after


@LIGHTNING
@pytest.mark.parametrize("gradient", ["captured", "grad"])
def test_accumulated_micro_batches_need_the_mixin(gradient):
    module = Plain({**GROUP, "gradient": gradient})
    before = flat(module)
    with pytest.raises(
        CurvatureError, match=r"from a backward pass without curvature.* use CurvatureModule of ddn_core"
    ):
        trained(module, batch_size=4, accumulate_grad_batches=2)
    assert torch.equal(flat(module), before)


@LIGHTNING
@pytest.mark.parametrize("kind", [Plain, Mixed])
@pytest.mark.parametrize("damping", [0.5, {"kind": "levenberg-marquardt"}], ids=["constant", "loss after the step"])
def test_clipped_gradients_are_those_of_the_step_or_an_error(kind, damping):
    group = {**GROUP, "damping": damping}
    module = kind(group)
    before = flat(module)
    with pytest.raises(
        CurvatureError, match=r"was changed in place, as by clipping, .*max_step_norm .*gradient = \"grad"
    ):
        trained(module, gradient_clip_val=0.01)
    assert torch.equal(flat(module), before)

    group = {**group, "gradient": "grad"}
    twin, (X, y) = Plain(group), data()
    optimizer = twin.configure_optimizers()
    for start in range(0, len(X), 8):
        batch = X[start : start + 8], y[start : start + 8]
        optimizer.zero_grad()
        optimizer.backward(twin.training_step(batch, 0))
        assert nn.utils.clip_grad_norm_(twin.parameters(), 0.01) > 0.02
        optimizer.step(lambda batch=batch: twin.training_step(batch, 0))
    found = flat(trained(kind(group), epochs=1, gradient_clip_val=0.01))
    torch.testing.assert_close(found, flat(twin), rtol=1e-6, atol=1e-7)


@LIGHTNING
@pytest.mark.parametrize("count", [1, 2])
def test_scaled_losses_of_lightning_make_steps_without_scale(count):
    def plugins():
        return [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]

    whole = trained(Mixed(), batch_size=8, plugins=[MixedPrecision("bf16-mixed", "cpu")])
    module = trained(Mixed(), batch_size=8 // count, accumulate_grad_batches=count, plugins=plugins())
    start = flat(Mixed())
    assert module.optimizers(use_pl_optimizer=False).step_count == 6
    assert float((flat(module) - flat(whole)).norm()) < 0.02 * float((flat(whole) - start).norm())
    with pytest.raises(CurvatureError, match=r"step\(\) needs a curvature pass since the last step"):
        trained(Plain(), plugins=plugins())
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        trained(Mixed({**GROUP, "gradient": "grad"}), plugins=plugins(), gradient_clip_val=0.01)


@LIGHTNING
def test_the_mixin_is_for_our_optimizer():
    class Other(Mixed):
        def configure_optimizers(self):
            return torch.optim.SGD(self.model.parameters(), lr=0.1)

    with pytest.raises(
        ArgumentError, match="needs exactly one optimizer, a DirectionalDampedNewton, and the module has SGD"
    ):
        trained(Other())


def test_event_files_have_what_the_steps_did(tmp_path):
    module = Plain({**GROUP, "params": ["0.*"], "criterion": {"kind": "top-k", "k": 4}})
    groups = [module.group, GROUP]
    optimizer = DirectionalDampedNewton(module.model.named_parameters(), groups, lr=0.5)
    X, y = data()
    told = []
    with SummaryWriter(tmp_path) as writer:
        for step in range(3):
            optimizer.zero_grad()
            with optimizer.curvature():
                loss = module.training_step((X, y), 0)
                loss.backward()
            optimizer.step()
            write_step(writer, optimizer, step, loss.detach())
            told.append((loss.item(), copy.copy(optimizer.last_step)))
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["histograms"]) == {
        f"ddn/group {group}/{name}" for group in (0, 1) for name in ("log10 evals", "log10 deltas", "log10 |gammas|")
    }
    assert [event.value for event in events.Scalars("ddn/loss")] == pytest.approx([loss for loss, _ in told])
    for group in (0, 1):
        reports = [reports[group] for _, reports in told]
        for name, expected in {
            "step norm": [float(report.step_norm) for report in reports],
            "predicted decrease": [report.predicted_decrease for report in reports],
            "directions": [report.directions for report in reports],
            "seconds/gram": [report.seconds["gram"] for report in reports],
            "lr": [0.5] * 3,
            "taken": [1.0] * 3,
        }.items():
            found = events.Scalars(f"ddn/group {group}/{name}")
            assert [event.step for event in found] == [0, 1, 2]
            assert [event.value for event in found] == pytest.approx(expected, rel=1e-5), name
        for event, report in zip(events.Histograms(f"ddn/group {group}/log10 evals"), reports, strict=True):
            positive = report.all_evals[report.all_evals > 0]
            assert event.histogram_value.num == len(positive)
            assert event.histogram_value.max == pytest.approx(math.log10(float(positive.max())), rel=1e-5)
    assert "ddn/skipped steps" in tags["scalars"]
