"""A tiny but real training of a tokenizer by any number of processes; shared by the tests of scale, run by torchrun."""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from datamodules import Image, Label, ShardData
from mmmask.masking import Beta, RatioMask
from mmmask.tokenizers import CosineQuantizer, ViTTokenizer
from mmmask.transformer import ENAT, AutoNAT
from tasks.image_synthesis import ImageSynthesis
from tasks.tokenizer_training import TokenizerTraining
from tasks.training.ema import EMA
from tasks.training.parallel import FullySharded, Parallel
from tasks.training.randomness import Randomness

BATCH = 16  # of all ranks together
STEPS = 20


class Watch(Callback):
    """Writes down the loss of each step and rank, saves checkpoints and stops where asked."""

    def __init__(self, folder, save_at, stop_at):
        self.folder, self.save_at, self.stop_at = Path(folder), {*save_at, stop_at}, stop_at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with open(self.folder / f"losses-{trainer.global_rank}", "a") as stream:
            stream.write(f"{trainer.global_step - 1} {outputs['loss'].item()!r}\n")
        if trainer.global_step in self.save_at:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")
        trainer.should_stop = trainer.global_step == self.stop_at


def tokenizer_task() -> LightningModule:
    """A tokenizer of 16-pixel pictures whose codes are born and die."""
    return TokenizerTraining(tokenizer(), lr=5e-4, warmup_steps=3)  # larger steps make rounding grow into other codes


def tokenizer():
    return ViTTokenizer(CosineQuantizer(32, 8), 16, dim=32, heads=4, width=8)


def enat_task() -> LightningModule:
    """Synthesis with reuse from tokens made on the way; without dropout, which differs between ranks."""
    backbone = ENAT(32, 16, 10, dim=32, encoder_depth=2, decoder_depth=2, heads=4, dropout=0.0)
    return synthesis_task(backbone, RatioMask(Beta(4, 2), per="batch"))


def autonat_task() -> LightningModule:
    """Synthesis with another share of masked tokens for each sample."""
    return synthesis_task(AutoNAT(32, 16, 10, dim=32, depth=3, heads=4, dropout=0.0), RatioMask(Beta(4, 2)))


def synthesis_task(backbone, masks) -> LightningModule:
    task = ImageSynthesis(backbone, masks=masks, lr=3e-3, warmup_steps=3, decay="cosine")
    frozen = tokenizer().train()
    frozen(torch.rand(32, 3, 16, 16))  # places the codes
    task.__dict__["tokenizer"] = frozen.eval().requires_grad_(False)
    return task


TASKS = {"tokenizer": tokenizer_task, "enat": enat_task, "autonat": autonat_task}


def train(
    shards,
    folder,
    strategy="one",
    ranks=1,
    nodes=1,
    save_at=(),
    stop_at=STEPS,
    resume=None,
    kind="tokenizer",
    **parallel,
):
    """Train in this process, one of `ranks` on each of `nodes`."""
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    images = Image(field="jpg", size=16, flip=True)
    data = ShardData(shards, {"image": images, "label": Label()}, val=shards, batch_size=BATCH // (ranks * nodes))
    Path(folder).mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        num_nodes=nodes,
        strategy={"one": "auto", "ddp": "ddp", "file": FullySharded(False), "folder": FullySharded()}[strategy],
        max_steps=STEPS,
        gradient_clip_val=0.2,
        val_check_interval=10,
        limit_val_batches=2,
        num_sanity_val_steps=1,
        callbacks=[EMA(0.9), Watch(folder, save_at, stop_at), Randomness(), Parallel(**parallel)],
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(TASKS[kind](), data, ckpt_path=resume, weights_only=True)


def losses(folder):
    """The loss of each step, the mean over ranks."""
    steps = {}
    for file in Path(folder).glob("losses-*"):
        for line in file.read_text().splitlines():
            step, loss = line.split()
            steps.setdefault(int(step), {})[file.name] = float(loss)
    return {step: sum(by_rank.values()) / len(by_rank) for step, by_rank in sorted(steps.items())}


if __name__ == "__main__":
    train(**json.loads(sys.argv[1]))
