"""
Training with PyTorch Lightning
===============================

This example uses automatic optimization, a schedule, a rule for steps that raise the loss, and a checkpoint. A run that
resumes from the checkpoint ends bit by bit like the run that was not interrupted.
"""

import logging
import tempfile
import warnings
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore", category=DeprecationWarning)  # from packages that Lightning imports
warnings.filterwarnings("ignore", category=FutureWarning)
from lightning.pytorch import LightningModule, Trainer, seed_everything

from ddn_core import DirectionalDampedNewton
from ddn_core.integrations.lightning import CurvatureModule


class Classifier(CurvatureModule, LightningModule):
    """A small network."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
        self.loss_function = nn.CrossEntropyLoss()

    def training_step(self, batch, index):
        X, y = batch
        return self.loss_function(self.model(X), y)

    def configure_optimizers(self):
        group = {
            "params": ["*"],
            "criterion": {"kind": "top-k", "k": 50},
            "damping": {"kind": "levenberg-marquardt", "lowest": 1e-2},
            "momentum": 0.5,
        }
        optimizer = DirectionalDampedNewton(
            self.model.named_parameters(), [group], lr=0.5, step={"on_increase": "shorten"}
        )
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def loader(images, digits):
    return DataLoader(TensorDataset(images, digits), batch_size=128)


def trainer(epochs, folder):
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
images, digits = load_digits(return_X_y=True)
images, digits = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(digits)
train, test = slice(0, 1437), slice(1437, None)

warnings.filterwarnings(
    "ignore", ".*does not have many workers.*|.*isn't supported.*|.*LeafSpec.*|.*logging interval.*"
)
with tempfile.TemporaryDirectory() as folder:
    seed_everything(0, verbose=False)
    uninterrupted = Classifier()
    trainer(4, folder).fit(uninterrupted, loader(images[train], digits[train]))

    seed_everything(0, verbose=False)
    interrupted = Classifier()
    first_half = trainer(2, folder)
    first_half.fit(interrupted, loader(images[train], digits[train]))
    first_half.save_checkpoint(Path(folder) / "half.ckpt")

    resumed = Classifier()
    trainer(4, folder).fit(
        resumed, loader(images[train], digits[train]), ckpt_path=Path(folder) / "half.ckpt", weights_only=True
    )

with torch.no_grad():
    accuracy = (uninterrupted.model(images[test]).argmax(1) == digits[test]).float().mean()
same = all(torch.equal(*pair) for pair in zip(uninterrupted.parameters(), resumed.parameters(), strict=True))
print(f"test accuracy {accuracy:.3f}; the resumed run ended {'bit-identical' if same else 'different'}")
assert same
