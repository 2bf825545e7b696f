"""Randomness as a function of the place in the training, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import logging
import os
import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

log = logging.getLogger(__name__)

TRAINING, EVALUATION, COMMON = 0, 1, 2


class Randomness(pl.Callback):
    """Seeds all generators before each batch: in training by (seed, epoch, batch, rank), so masks and dropout need
    no saving; in evaluation by (seed, batch, rank), so that each validation asks the same questions."""

    def __init__(self) -> None:
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # what seed_everything was given

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed_all(self.seed, TRAINING, trainer.current_epoch, batch_idx, trainer.global_rank)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        seed_all(self.seed, EVALUATION, dataloader_idx, batch_idx, trainer.global_rank)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """A run keeps the seed it began with, or it would not be the same run."""
        if state["seed"] != self.seed:
            log.warning("the run goes on with its own seed_everything, %d (%d was given)", state["seed"], self.seed)
        self.seed = state["seed"]


def common_generator(task: pl.LightningModule, training: bool, batch_idx: int, use: int) -> torch.Generator:
    """A generator for this batch, and for one use of it, that draws the same on all ranks."""
    callbacks = task.trainer.callbacks  # type: ignore[attr-defined]
    seed = next((callback.seed for callback in callbacks if isinstance(callback, Randomness)), 0)
    place = (seed, COMMON, task.trainer.current_epoch, batch_idx) if training else (seed, COMMON, batch_idx)
    place = (*place, use)
    return torch.Generator().manual_seed(_number(*place))


def seed_all(*place: int) -> None:
    """Seed torch (all devices), numpy and random with numbers that depend on all of `place`."""
    seed = _number(*place)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for all kinds of devices: 0.2 ms each time
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    elif torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries draw from it)
    random.seed(seed)


def _number(*place: int) -> int:
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0])
