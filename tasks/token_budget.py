"""A training whose length, warm-up and decay are counted in tokens, as 4M's are: whatever the batches and devices."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from mmmask.errors import UserError
from tasks.optimizing import Decay

EPOCHS = 1000  # what Lightning takes where no end is given


class TokenBudget(pl.Callback):
    """Counts the tokens of all samples on all ranks, and ends the training with the batch that spends the last.

    What was spent is kept in checkpoints, so a resumed run goes on counting, also with other batches or ranks.

    Args:
        total: tokens.
        per_sample: how many a sample counts for.
    """

    def __init__(self, total: float, per_sample: int) -> None:
        if total <= 0:
            raise UserError(f"CrossModal: total_tokens must be above 0; it is {total:g}.")
        self.total, self.per_sample, self.spent = total, per_sample, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop |= self.spent >= self.total

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before the step, so that the learning rate that follows it knows."""
        samples = torch.tensor(len(batch["key"]), device=pl_module.device)
        self.spent += self.per_sample * int(trainer.strategy.reduce(samples, reduce_op="sum"))  # last ones may differ

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pl_module.log("train/tokens", float(self.spent), prog_bar=True)
        if self.spent >= self.total and not trainer.fit_loop._should_accumulate():
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.spent = state["spent"]


def one_end(task: pl.LightningModule, budget: TokenBudget | None, decay: Decay) -> None:
    """To be called in `setup` of a training: it must end by tokens, or by steps or epochs, not by both."""
    trainer = task.trainer
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    endless = trainer.max_steps == -1 and trainer.max_epochs in (None, -1, EPOCHS)
    if budget is None and endless and decay == "cosine":
        raise UserError(
            f"{type(task).__name__}: nothing says when the training ends; set model.total_tokens, or trainer.max_steps."
        )
    if budget is not None and not endless:
        other = "max_epochs" if trainer.max_steps == -1 else "max_steps"
        raise UserError(
            f"{type(task).__name__}: model.total_tokens is {budget.total:g} and trainer.{other} is "
            f"{getattr(trainer, other)}: one of them must end the training; set trainer.{other} to -1, or "
            "model.total_tokens to null."
        )
    if budget is not None:
        trainer.fit_loop.max_epochs = -1
