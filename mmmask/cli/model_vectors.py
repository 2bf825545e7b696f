"""Vectors of samples by a trained any-to-any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmmask.errors import UserError


@torch.no_grad()
def vectors_of_run(run: Path, data: str) -> dict[str, Any]:
    """Rows `(N, D)` of each aligned modality, in the order of the shards; zeros where a sample lacks it."""
    from datamodules import ShardData
    from mmmask.cli.training import know_classes
    from tasks.command_line import load_run
    from tasks.finished import model_of

    know_classes()
    model = model_of(run).part("any_to_any", run)
    if model.alignment is None:
        raise UserError(f"{run} has no vectors to compare: train it with alignment.")
    names = list(model.alignment.names)
    readers = load_run(run)[1].modalities
    sources = {model.source(name): readers[model.source(name)] for name in names}
    loader = ShardData(data, sources, predict=data, missing="mask", allow="remote").predict_dataloader()
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for batch in loader:
        vectors = model.vectors(model.tokens(model.read(batch, names)))
        for name, rows in vectors.items():
            there = batch["present"][model.source(name)][:, None]
            found[name].append(torch.where(there, rows.float().cpu(), 0).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}
