"""AdamW with the schedules that the tasks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from mmmask.errors import UserError

Decay = Literal["constant", "cosine"]


def adamw(
    task: pl.LightningModule,
    module: nn.Module,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup_steps: float,
    decay: Decay = "cosine",
    total_steps: float | None = None,
    position: Callable[[int], float] = float,
    rates: Callable[[str], float] = lambda name: 1.0,
) -> Any:
    """What `configure_optimizers` returns: linear warm-up, then a constant rate or a cosine to zero.

    Biases and norms do not decay. The cosine ends after `total_steps` (default: where the trainer does); `position` is
    how far a training is after a number of steps, if it counts other things than these; `rates` says which share of the
    learning rate a parameter of this name has.
    """
    if lr <= 0 or weight_decay < 0 or warmup_steps < 0:
        raise UserError(
            f"{type(task).__name__}: lr must be above 0, weight_decay and warmup_steps 0 or more; "
            f"they are {lr}, {weight_decay} and {warmup_steps}."
        )
    total = math.inf
    if decay == "cosine":
        total = task.trainer.estimated_stepping_batches if total_steps is None else total_steps
    if decay == "cosine" and math.isinf(total):
        raise UserError(f"{type(task).__name__}: the cosine schedule needs an end; set trainer.max_steps.")
    trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    groups: list[dict[str, Any]] = []
    for rate in sorted(set(map(rates, trained)), reverse=True):
        own = {name: weight for name, weight in trained.items() if rates(name) == rate}
        matrices = [weight for name, weight in own.items() if weight.ndim > 1 and "norm" not in name]
        others = [weight for name, weight in own.items() if weight.ndim <= 1 or "norm" in name]
        groups.append({"params": matrices, "lr": lr * rate})
        groups.append({"params": others, "lr": lr * rate, "weight_decay": 0.0})
    optimizer = AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=_can_fuse(task, trained.values()))

    def factor(step: int) -> float:
        at = position(step)
        warm = min(1.0, (at + 1) / (warmup_steps + 1))
        return warm if decay == "constant" else warm * 0.5 * (1 + math.cos(math.pi * min(1.0, at / total)))

    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def _can_fuse(task: pl.LightningModule, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether one kernel may do the whole step: several times faster. Lightning takes any such optimizer for one that
    scales gradients itself, and refuses to clip them in mixed precision."""
    clips_mixed = isinstance(task.trainer.precision_plugin, MixedPrecision) and task.trainer.gradient_clip_val
    return not clips_mixed and all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
