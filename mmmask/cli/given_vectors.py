"""Vectors of samples that discovery goes by: those of a file, or of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmmask.discovery.rows import Rows
from mmmask.discovery.space import Samples
from mmmask.errors import UserError, nearest
from mmmask.synthesis import AnyToAny


def with_features(samples: Samples, settings: dict[str, Any]) -> Samples:
    """Samples with the vectors that the settings name, in their order."""
    features, keys = settings["features"], settings["keys"]
    if (features is None) != (keys is None):
        raise UserError("--features and --keys belong together: the vectors, and the key of each, one a line.")
    if features is not None:
        samples.given = {"features": vectors_of_file(Path(features), Path(keys), samples.keys)}
        samples.pictures = {}
    return samples


def vectors_of_file(features: Path, keys: Path, wanted: list[str]) -> Any:
    """Rows `(N, D)` of an .npy file for the keys that are wanted; a memory map where these are all, in their order."""
    rows = Rows(features)
    if not keys.is_file():
        raise UserError(f"there is no file {keys}.")
    names = keys.read_text(encoding="utf-8").split("\n")
    names = names[:-1] if names[-1] == "" else names
    if len(names) != len(rows):
        raise UserError(f"{keys} has {len(names)} keys, but {features} has {len(rows)} rows: give one key for each.")
    place = {name: n for n, name in enumerate(names)}
    if len(place) < len(names):
        raise UserError(f"{keys}: '{next(n for n in names if names.count(n) > 1)}' occurs twice: keep one of them.")
    missing = [key for key in wanted if key not in place]
    if missing:
        raise UserError(
            f"{keys}: {len(missing)} samples have no vector, the first is '{missing[0]}'."
            f"{nearest(missing[0], names[:10_000])}"
        )
    return rows.array if names == wanted else rows.array[[place[key] for key in wanted]]


@torch.no_grad()
def vectors_of_run(run: Path, data: str) -> tuple[dict[str, Any], frozenset[str]]:
    """Rows `(N, D)` in the order of the shards: the features of a category discovery, or of each aligned modality,
    zeros where a sample lacks it. And the keys of the samples whose labels that discovery has learned."""
    from datamodules import ShardData
    from mmmask.cli.training import know_classes
    from tasks.command_line import load_run
    from tasks.finished import model_of

    know_classes()
    model = model_of(run)
    discoverer = model.parts.get("discoverer")
    found, names = discoverer or model.part("any_to_any", run), []
    if discoverer:
        entries = discoverer.encoder.entries()
    elif found.alignment is not None:
        names = list(found.alignment.names)
        entries = [found.source(name) for name in names]
    else:
        raise UserError(f"{run} has no vectors to compare: train it with alignment.")
    task, trained_on = load_run(run)
    readers = trained_on.modalities
    sources = {entry: readers[entry] for entry in entries}
    loader = ShardData(data, sources, predict=data, missing="mask", allow="remote").predict_dataloader()
    parts: dict[str, list[np.ndarray]] = {}
    for batch in loader:
        own = {"features": discoverer.joined(batch)} if discoverer else _aligned(found, batch, names)
        for name, rows in own.items():
            parts.setdefault(name, []).append(rows.float().cpu().numpy())
    learned = frozenset(task.protocol.labelled) if discoverer else frozenset[str]()
    return {name: np.concatenate(part) for name, part in parts.items()}, learned


def _aligned(model: AnyToAny, batch: dict[str, Any], names: list[str]) -> dict[str, torch.Tensor]:
    vectors = model.vectors(model.tokens(model.read(batch, names)))
    there = {name: batch["present"][model.source(name)][:, None] for name in names}
    return {name: torch.where(there[name].to(rows.device), rows, 0) for name, rows in vectors.items()}
