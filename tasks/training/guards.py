"""Guards on the loss and the gradient: a run that became NaN ends at once, a spike is told or its batch skipped."""

from __future__ import annotations

import logging
import math
from collections import deque
from contextlib import suppress
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor

from mmmask.errors import RunFailed, UserError
from mmmask.files import written_whole

log = logging.getLogger(__name__)

SKIPS_IN_A_ROW = 10  # after so many the loss has not spiked, it has changed


class Guards(pl.Callback):
    """Looks at the loss and the gradient of all ranks before each optimiser step.

    If either is not finite the run ends before the weights change; the batch is kept in the run folder, and the
    last checkpoint stays the last. (With 16-bit floats gradients overflow now and then by design: those steps are
    counted, the scaler leaves them out.) Lightning's SpikeDetection judges after the step, too late to skip it.

    Args:
        spike: a loss this many standard deviations above the mean of the last `window` is a spike (0: none is).
        on_spike: `log` it with the keys of its samples, or `skip` the optimiser step too.
        window: steps that are remembered.
    """

    def __init__(self, spike: float = 0, on_spike: Literal["log", "skip"] = "log", window: int = 100) -> None:
        if spike < 0 or window < 10:
            raise UserError(f"guards: spike must be 0 or more and window 10 or more; they are {spike:g} and {window}.")
        self.spike, self.on_spike = spike, on_spike
        self.spikes = self.skipped = self._in_a_row = 0
        self._recent: deque[float] = deque(maxlen=window)
        self._losses: list[Tensor] = []
        self._batches: list[Any] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batches.append(batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        mine = self._loss() / (scaler.get_scale() if scaler else 1)
        seen = torch.stack([mine.to(pl_module.device), _norm(weights).to(pl_module.device)])
        loss, norm = trainer.strategy.reduce(seen, reduce_op="mean").tolist()
        if not math.isfinite(loss) or not (math.isfinite(norm) or scaler):
            self._end(trainer, pl_module, float(mine))
        elif not math.isfinite(norm):
            self._losses = []
            self._leave_out(trainer)
            return
        elif self._is_spike(loss):
            self.spikes += 1
            log.warning("step %d: the loss spikes to %.4g; %s", trainer.global_step, loss, _keys(self._batches))
            if self.on_spike == "skip" and self._in_a_row < SKIPS_IN_A_ROW:
                self._leave_out(trainer)
                for weight in weights:
                    weight.grad = None  # no optimiser moves a weight without one
                self._losses = []
                return
        self._in_a_row = 0
        if self._losses:
            self._recent.append(loss)
        self._losses = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.fit_loop._should_accumulate():
            self._losses, self._batches = [], []
        if self.spikes or self.skipped:
            pl_module.log_dict({"guards/spikes": float(self.spikes), "guards/skipped_steps": float(self.skipped)})

    def _loss(self) -> Tensor:
        """Of all batches of the step; Lightning has divided them by their number. 0 where the task gave none."""
        if not self._losses:
            return torch.zeros(())
        return torch.stack([loss.float().mean() for loss in self._losses]).sum()

    def _is_spike(self, loss: float) -> bool:
        if not self.spike or len(self._recent) < 10:
            return False
        return loss > fmean(self._recent) + self.spike * pstdev(self._recent)

    def _leave_out(self, trainer: pl.Trainer) -> None:
        self.skipped += 1
        self._in_a_row += 1
        log.warning("step %d is left out (%d so far)", trainer.global_step, self.skipped)

    def _end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: float) -> None:
        """Say which rank, samples and modality, keep the batches, and end the run on all ranks."""
        mine = None
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # all ranks must ask
        if not all(bool(value.isfinite().all()) for value in self._losses) or trainer.world_size == 1:
            path = folder / f"not-finite-step-{trainer.global_step}-rank-{trainer.global_rank}.pt"
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(UserError), written_whole(path) as stream:  # on a full disk the rest is worth telling
                torch.save(self._batches, stream)
            mine = (
                f"rank {trainer.global_rank}: {_cause(self._batches, pl_module, loss)}; {_keys(self._batches)}; {path}"
            )
        told: list[str | None] = [mine]
        if trainer.world_size > 1:
            told = [None] * trainer.world_size
            dist.all_gather_object(told, mine)
        causes = " ".join(f"({cause})" for cause in told if cause) or "(the gradient, with finite losses on all ranks)"
        raise RunFailed(
            f"step {trainer.global_step} is not finite {causes}. The weights were not changed; "
            "go on from the last checkpoint with a lower learning rate or without these samples."
        )

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self._recent), "spikes": self.spikes, "skipped": self.skipped, "row": self._in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._recent.extend(state["recent"])
        self.spikes, self.skipped, self._in_a_row = state["spikes"], state["skipped"], state["row"]


def _norm(weights: list[Tensor]) -> Tensor:
    """Of the whole gradient, also of a sharded one."""
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _cause(batches: list[Any], pl_module: pl.LightningModule, loss: float) -> str:
    for name, value in ((name, value) for batch in batches if isinstance(batch, dict) for name, value in batch.items()):
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            return f"modality '{name}' of the batch holds NaN or infinity"
    if not math.isfinite(loss):
        return f"the batch is finite, the loss is {loss:g}"
    named = ((name, weight.grad) for name, weight in pl_module.named_parameters() if weight.grad is not None)
    first = next((name for name, grad in named if not getattr(grad, "_local_tensor", grad).isfinite().all()), "unknown")
    return f"the loss is {loss:.4g}, the gradient of {first} is not finite"


def _keys(batches: list[Any]) -> str:
    keys = [str(key) for batch in batches if isinstance(batch, dict) for key in batch.get("key", [])]
    shown = ", ".join(keys[:8]) + (f", ... {len(keys)} in all" if len(keys) > 8 else "")
    return f"samples {shown}" if keys else "samples without keys"
