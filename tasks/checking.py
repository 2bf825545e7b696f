"""`mmmask check`: what a configuration describes, how large it is, and whether a batch comes out of it."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch
from rich import print as rich_print
from rich.markup import escape
from rich.table import Table

from tasks.command_line import command_line


def check(arguments: list[str]) -> None:
    """Build everything, take one training batch, and say how large it all is."""
    cli = command_line(arguments, run=False)
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    loader = cli.datamodule.train_dataloader()
    start = time.perf_counter()
    batch = next(iter(loader))
    table = Table("what", "value", box=None)
    for name, value in (batch if isinstance(batch, dict) else {"batch": batch}).items():
        shown = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else f"{len(value)} entries"
        table.add_row(escape(f"batch[{name}]"), shown)
    parameters = sum(p.numel() for p in cli.model.parameters())
    trained = sum(p.numel() for p in cli.model.parameters() if p.requires_grad)
    table.add_row("parameters", f"{parameters:,} ({trained:,} trained)")
    table.add_row("memory", f"{_training_bytes(cli.model) / 2**20:,.1f} MiB for weights, gradients and Adam's state")
    table.add_row("batch memory", f"{_batch_bytes(batch) / 2**20:,.1f} MiB")
    table.add_row("steps per epoch", f"{_steps_per_epoch(cli.trainer, len(loader)):,}")
    table.add_row("first batch", f"{time.perf_counter() - start:.2f} s")
    rich_print(table)


def _steps_per_epoch(trainer: pl.Trainer, batches: int) -> int:
    """Optimiser steps; `batches` is what one rank alone would have."""
    batches = -(-batches // trainer.world_size)
    limit = trainer.limit_train_batches
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return -(-batches // max(1, trainer.accumulate_grad_batches))


def _training_bytes(model: torch.nn.Module) -> int:
    weights = sum(p.numel() * p.element_size() for p in [*model.parameters(), *model.buffers()])
    return weights + 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def _batch_bytes(batch: dict[str, Any]) -> int:
    return sum(value.numel() * value.element_size() for value in batch.values() if isinstance(value, torch.Tensor))
