"""A small training with masks, dropout, EMA, a schedule and validations, that can be stopped anywhere."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import lightning.pytorch as pl
import torch
import torch.nn.functional as F

from datamodules import Array, ShardData
from mmmask.errors import Stopped
from tasks.training.checkpoints import Checkpoints
from tasks.training.ema import EMA
from tasks.training.randomness import Randomness
from tasks.training.whole_files import WholeFiles


class Masked(pl.LightningModule):
    """Guesses hidden numbers: each step draws masks and dropout from the global generators."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 4))

    def loss(self, batch):
        x = batch["tokens"].float() / 30
        hidden = torch.rand_like(x) < 0.5
        return F.mse_loss(self.net(x.masked_fill(hidden, 0)), x)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.loss(batch), batch_size=len(batch["key"]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (total + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SignalAt(pl.Callback):
    """Sends this process a signal during batch number `batch` (over all epochs) of training or of validation."""

    def __init__(self, batch, stage="training", signum=signal.SIGTERM):
        self.batch, self.stage, self.signum = batch, stage, signum
        self.seen = 0

    def on_train_batch_start(self, trainer, *_):
        if self.stage == "training":
            self.count()

    def on_validation_batch_start(self, trainer, *_):
        if self.stage == "validation" and not trainer.sanity_checking:
            self.count()

    def count(self):
        self.seen += 1
        if self.seen == self.batch:
            os.kill(os.getpid(), self.signum)


def train(shards, folder, *callbacks, workers=0, ema=True, checkpoints=None, data=None, model=None, **options):
    """Train, going on from last.ckpt if there is one. Returns the trainer; a stop by a signal is not an error."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = Path(folder)
    last = folder / "checkpoints" / "last.ckpt"
    data = data or {}
    data = ShardData(
        **{
            "train": shards,
            "val": shards,
            "modalities": {"tokens": Array()},
            "batch_size": 4,
            "num_workers": workers,
            **data,
        }
    )
    defaults = {
        "max_epochs": 3,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "plugins": [WholeFiles()],
    }
    saving = Checkpoints(**(checkpoints or {}))
    everything = [*callbacks, Randomness(), *([EMA(0.9)] if ema else []), saving]
    trainer = pl.Trainer(**{**defaults, **options}, callbacks=everything)
    with suppress(Stopped):
        trainer.fit(model or Masked(), data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    return trainer


def state(folder, name="last.ckpt"):
    return torch.load(Path(folder) / "checkpoints" / name, weights_only=True)


def differences(a, b, place=""):
    """Where two nested states differ, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(set(a) | set(b), key=str)
        return [d for k in keys for d in differences(a.get(k), b.get(k), f"{place}.{k}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{place}.{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if same else [f"{place}: {a} != {b}"]
