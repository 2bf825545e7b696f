"""A small task with an optimizer whose groups are in another order than the model; for the tests of sharding."""

from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from mmmask.transformer import Block
from tasks.training.parallel import FullySharded, Parallel


class Task(LightningModule):
    """Fits a few numbers; hears in `configured` how often its own `configure_model` was called."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), Block(8, 2), nn.Linear(8, 2))
        self.register_buffer("steps", torch.zeros(()))
        self.configured = 0

    def configure_model(self):
        self.configured += 1

    def configure_optimizers(self):
        vectors = [p for p in self.net.parameters() if p.ndim == 1]
        matrices = [p for p in self.net.parameters() if p.ndim > 1]
        groups = [{"params": vectors, "weight_decay": 0.0}, {"params": matrices}]
        optimizer = torch.optim.AdamW(groups, lr=0.01, eps=1e-3)  # eps: rounding of gradients that are 0 stays small
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)]

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.net(batch).square().mean()

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.net(batch).square().mean())


class Average(Callback):
    """Puts tensors of its own, sharded like the weights, into the checkpoint."""

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        checkpoint["ema"] = {name: 2 * value.detach() for name, value in pl_module.named_parameters()}
        checkpoint["ema"]["steps"] = pl_module.steps.clone()

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        self.loaded = checkpoint["ema"]


def trainer(strategy="auto", ranks=1, steps=6, parallel=(), callbacks=(), **options):
    """A quiet one for `ranks` processes."""
    return Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy={"file": FullySharded(False), "folder": FullySharded(timeout_minutes=1)}.get(strategy, strategy),
        max_steps=steps,
        callbacks=[Average(), Parallel(**dict(parallel)), *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


def loader(ranks=1, rank=0):
    """The part of a rank in the one batch of 12 that is an epoch."""
    samples = torch.randn(12, 3, 3, generator=torch.Generator().manual_seed(0))
    return DataLoader(samples[rank::ranks], 12 // ranks)


def train(rank, folder, strategy="auto", ranks=1, steps=6, resume=None, callbacks=(), parallel=(), **options):
    """Train until `steps`, and write the last checkpoint as `folder/<steps>.ckpt`."""
    seed_everything(rank, verbose=False)  # ranks that begin with other weights go on with those of the first
    model, runner = Task(), trainer(strategy, ranks, steps, parallel, callbacks, **options)
    runner.fit(model, loader(ranks, rank), ckpt_path=resume, weights_only=True)
    Path(folder).mkdir(parents=True, exist_ok=True)
    runner.save_checkpoint(Path(folder) / f"{steps}.ckpt")
    return runner
