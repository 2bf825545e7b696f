"""A running average of the weights (EMA), exact across resumes and under any strategy."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from mmmask.errors import UserError


class EMA(pl.Callback):
    """Averages the trained weights after each step; validation, test and prediction use the average.

    Checkpoints keep the weights themselves as `state_dict` and the average as `ema`. (Lightning's callback copies
    the whole task, frozen parts included, does not work with sharded weights, and stores the average as
    `state_dict`, from which a run without it would go on unawares.)

    Args:
        decay: share of the old average that is kept at each step; early on less, (1 + step) / (10 + step), so that in
            a short training little is left of the weights it began with.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"EMA: decay must be from 0 to below 1; got {decay}.")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._seen_step = 0
        self._swapped = False

    @classmethod
    def of(cls, task: pl.LightningModule) -> dict[str, Tensor]:
        """The averages that a training keeps, for `functional_call`; nothing if it keeps none, or in shards."""
        for callback in task.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, cls) and not callback._swapped:
                sharded = any(isinstance(average, DTensor) for average in callback.average.values())
                return {} if sharded else callback.average
        return {}

    @classmethod
    def begin_anew(cls, task: pl.LightningModule, weight: torch.nn.Parameter) -> None:
        """A weight was set from outside: what it was before is no part of its average."""
        for callback in task.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, cls):
                for name, one in _trained(task).items():
                    if one is weight and name in callback.average:
                        callback.average[name].copy_(weight.detach())

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seen_step = trainer.global_step
        self._ready(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._seen_step:  # still accumulating
            return
        self._seen_step = trainer.global_step
        step = trainer.global_step
        kept = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(_parts(self.average), _parts(_trained(pl_module)), 1 - kept)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ready(pl_module)
        self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap(pl_module)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if self._swapped:
            self._swap(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["ema"] = dict(self.average)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if "ema" not in checkpoint:
            raise UserError(
                "the checkpoint was trained without EMA: leave the callback out, or start a new run with it."
            )
        self.average = dict(checkpoint["ema"])

    def _ready(self, pl_module: pl.LightningModule) -> None:
        """The average beside the weights: on their device, sharded as they are; at the start equal to them."""
        weights = _trained(pl_module)
        if self.average and (differing := self.average.keys() ^ weights.keys()):
            raise UserError(
                f"the averages of the checkpoint are of another model: {min(differing)} is in one of them only."
            )
        before, self.average = self.average, {name: weight.detach().clone() for name, weight in weights.items()}
        for name, value in before.items():
            self.average[name].copy_(value)

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        weights, averages = _parts(_trained(pl_module)), _parts(self.average)
        kept = [weight.clone() for weight in weights]
        torch._foreach_copy_(weights, averages)
        torch._foreach_copy_(averages, kept)
        self._swapped = not self._swapped


def _trained(module: torch.nn.Module) -> dict[str, Tensor]:
    named = module.named_parameters(remove_duplicate=False)  # tied weights have several names in a state dict
    return {name: weight for name, weight in named if weight.requires_grad}


def _parts(tensors: dict[str, Tensor]) -> list[Tensor]:
    """What this rank has of each: an average is made number by number, on each rank for its own."""
    return [t.to_local() if isinstance(t, DTensor) else t.detach() for t in tensors.values()]


def averaged(state: dict[str, Any]) -> dict[str, Tensor]:
    """The weights to use of a loaded checkpoint: averages where there are any."""
    return {**state["state_dict"], **state.get("ema", {})}
