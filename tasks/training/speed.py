"""How fast a training goes: samples and tokens a second, waiting for data, memory, model-FLOPs utilisation."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.throughput import _CUDA_FLOPS, Throughput, get_available_flops
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.throughput_monitor import _plugin_to_compute_dtype
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

GIB = 2**30
MISTAKEN = {"H200": "h100 sxm", "L40S": ""}  # devices that Lightning takes for none or another -> theirs, if it has it


class Speed(Callback):
    """Measures from one log step to the next, and tells the loggers under `speed/` (rank 0, for all ranks).

    The first batch, validation and checkpoints are no training time. A GPU is waited for where a window ends, never
    each step. Utilisation counts what one batch computes, once, in the first step (recomputed activations too).
    """

    def __init__(self) -> None:
        self.latest: dict[str, float] = {}
        self._rates: Throughput | None = None  # none before the first batch, and on other ranks
        self._counter: FlopCounterMode | None = None
        self._pause: tuple[float, float] | None = None
        self._available: float | None = None
        self._flops_per_sample: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier run; find out what can be counted."""
        self.latest, self._rates, self._counter, self._pause = {}, None, None, None
        self._flops_per_sample = None
        if not trainer.is_global_zero:
            return
        self._available = peak_flops(trainer.strategy.root_device, _plugin_to_compute_dtype(trainer.precision_plugin))
        if self._available and is_compiled(pl_module):
            rank_zero_info("model-FLOPs utilisation is unknown: compiled blocks do not tell what they compute.")
        elif self._available:
            self._counter = FlopCounterMode(display=False)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, _: int) -> None:
        """End a pause; begin to count."""
        if self._pause:
            self._resume(trainer)
        if self._counter and not self._counter.mode:
            self._counter.__enter__()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out what the optimiser computes, where it is clear that it comes next."""
        if pl_module.automatic_optimization:
            self._stop_counting()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the samples; at a log step, tell."""
        if self._rates is None:
            if trainer.is_global_zero:
                self._begin(trainer, batch)
            return
        if self._pause:  # another callback wrote a checkpoint just now
            self._resume(trainer)
        self._batches += 1
        self._samples += batch_size(batch)
        if not trainer.fit_loop._should_accumulate() and trainer._logger_connector.should_update_logs:
            self._tell(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock until the next batch."""
        self._stop_clock(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stop the clock until the next batch."""
        self._stop_clock(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The first step may fail."""
        self._stop_counting()

    def _begin(self, trainer: pl.Trainer, batch: Any) -> None:
        """Measure from here on."""
        self._stop_counting()
        if self._counter:
            self._flops_per_sample = self._counter.get_total_flops() / batch_size(batch)
            self._counter = None
        self._rates = Throughput(available_flops=self._available, window_size=2)
        self._batches = self._samples = 0
        self._rates.update(time=0.0, batches=0, samples=0, lengths=0, flops=0)
        _finish(trainer)
        self._began, self._waited = time.perf_counter(), _waited(trainer)
        self._last, self._told = 0.0, 0  # time and samples when the last window ended

    def _stop_counting(self) -> None:
        if self._counter and self._counter.mode:
            self._counter.__exit__(None, None, None)

    def _stop_clock(self, trainer: pl.Trainer) -> None:
        if self._rates and not self._pause:
            _finish(trainer)
            self._pause = time.perf_counter(), _waited(trainer) or 0.0

    def _resume(self, trainer: pl.Trainer) -> None:
        """Take the pause out of the time, but not the wait for the batch that ended it."""
        assert self._pause
        began, waited = self._pause
        self._began += time.perf_counter() - began - ((_waited(trainer) or 0.0) - waited)
        self._pause = None

    def _tell(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End a window: what it was goes to `latest` and to the loggers."""
        assert self._rates
        _finish(trainer)
        now, waited = time.perf_counter() - self._began, _waited(trainer)
        tokens = getattr(pl_module, "tokens_per_sample", None)
        of_one = self._flops_per_sample
        self._rates.update(
            time=now,
            batches=self._batches,
            samples=self._samples,
            lengths=self._samples * (tokens or 1),
            flops=None if of_one is None else round(of_one * (self._samples - self._told)),
        )
        rates = self._rates.compute()
        told = {"samples_per_second": rates["device/samples_per_sec"] * trainer.world_size}
        if tokens:
            told["tokens_per_second"] = rates["device/items_per_sec"] * trainer.world_size
        if waited is not None and self._waited is not None:
            told["data_wait"] = min(1.0, max(0.0, (waited - self._waited) / (now - self._last)))
        if memory := memory_gib(trainer.strategy.root_device):
            told["memory_gib"] = memory
        if "device/mfu" in rates:
            told["model_flops_utilisation"] = rates["device/mfu"]
        self._waited, self._last, self._told = waited, now, self._samples
        self.latest = {f"speed/{name}": float(value) for name, value in told.items()}
        for logger in trainer.loggers:
            logger.log_metrics(self.latest, step=trainer.fit_loop.epoch_loop._batches_that_stepped)


def batch_size(batch: Any) -> int:
    """Samples in a batch: its keys, or the length of its first tensor."""
    if isinstance(batch, dict) and "key" in batch:
        return len(batch["key"])
    return next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.ndim), 1)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """What a GPU can compute in a second at most; none for a CPU."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for part, chip in MISTAKEN.items():
        if part in name:
            fast = dtype is torch.float32 and torch.get_float32_matmul_precision() != "highest"
            return _CUDA_FLOPS.get(chip, {}).get("tfloat32" if fast else dtype)
    return get_available_flops(device, dtype)


def is_compiled(module: nn.Module) -> bool:
    """Whether any part of it is: then its operations cannot be seen."""
    for part in module.modules():
        if part._compiled_call_impl or "_orig_mod" in part._modules:
            return True
        if hasattr(part.forward, "_torchdynamo_orig_callable"):  # as `parallelize` compiles blocks
            return True
    return getattr(module, "_compiler_ctx", None) is not None


def memory_gib(device: torch.device) -> float | None:
    """The most that a GPU held; else what this process holds (without its loader workers, where that can be told)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / GIB if pages.exists() else None


def _finish(trainer: pl.Trainer) -> None:
    """Wait until a GPU has done what it was given."""
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize(trainer.strategy.root_device)


def _waited(trainer: pl.Trainer) -> float | None:
    """Seconds spent waiting for training data so far, if the loader counts them."""
    return getattr(trainer.train_dataloader, "waited", None)
