"""A tiny training over shards that writes down which samples each step saw; shared by the resume tests."""

import os
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import Array, ShardData


class Recorder(pl.LightningModule):
    """Fits a line and appends `step epoch rank keys` to a file, fsynced, before each step."""

    def __init__(self, log):
        super().__init__()
        self.log_file = Path(log)
        self.line = torch.nn.Linear(4, 1)

    def on_train_batch_start(self, batch, batch_idx):
        with open(self.log_file, "a") as stream:
            keys = ",".join(batch["key"])
            stream.write(f"{self.global_step} {self.current_epoch} {self.global_rank} {keys}\n")
            stream.flush()
            os.fsync(stream.fileno())

    def training_step(self, batch, batch_idx):
        return self.line(batch["tokens"].float()).square().mean()

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches  # as most schedules ask: with max_epochs it builds the loader
        return torch.optim.SGD(self.parameters(), lr=1e-5)


def train(shards, folder, log, steps, workers=0, batch_size=4, every=1, slow=0.0, **trainer):
    """Train until `steps`, going on from the newest checkpoint in `folder`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = ShardData(train=shards, modalities={"tokens": Array()}, batch_size=batch_size, num_workers=workers)
    checkpoints = ModelCheckpoint(folder, filename="step", every_n_train_steps=every, save_last=True, save_top_k=0)
    options = {
        "max_steps": steps,
        "max_epochs": 1000,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [checkpoints],
        "default_root_dir": folder,
        "use_distributed_sampler": False,
        **trainer,
    }
    model = Recorder(log)
    last = Path(folder) / "last.ckpt"
    pl.Trainer(**options).fit(model, data, ckpt_path=str(last) if last.exists() else None)
    return model


def steps_seen(log):
    """step -> {rank: keys} of every line of a log; a step that was seen twice must have been the same."""
    seen = {}
    for line in Path(log).read_text().splitlines():
        step, _, rank, keys = line.split(" ")
        before = seen.setdefault(int(step), {}).setdefault(int(rank), keys)
        assert before == keys, f"step {step} saw {before} and, after a resume, {keys}"
    return seen


def epochs_seen(log):
    """epoch -> the keys that all ranks saw in it, sorted."""
    seen = {}
    for line in Path(log).read_text().splitlines():
        _, epoch, _, keys = line.split(" ")
        seen.setdefault(int(epoch), []).extend(keys.split(","))
    return {epoch: sorted(keys) for epoch, keys in sorted(seen.items())}
