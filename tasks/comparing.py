"""What ways to decode make of the same seeds, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmmask.report import draw_rows
from tasks.finished import model_of
from tasks.samplers import sampler_of


def compare(ways: Mapping[str, tuple[Path, dict[str, Any]]], out: Path, columns: int = 16, seed: int = 0) -> Path:
    """A picture with a row for each way: a model, and changes of how it decodes. Each column has its class and seed."""
    draw_rows({name: _drawn(path, changes, columns, seed) for name, (path, changes) in ways.items()}, out)
    return out


@torch.no_grad()
def _drawn(path: Path, changes: dict[str, Any], columns: int, seed: int) -> Tensor:
    model = model_of(path)
    generator, tokenizer = (model.part(name, path) for name in ("generator", "tokenizer"))
    given = torch.arange(columns) % generator.classes
    sampler = sampler_of(model, **changes)
    ids = sampler.sample(generator, given, range(seed, seed + columns))
    return tokenizer.decode(ids.unflatten(1, (tokenizer.grid, -1))).float()
