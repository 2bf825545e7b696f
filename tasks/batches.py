"""What tasks take out of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmmask.errors import UserError, nearest


def entry(task: object, batch: Mapping[str, Any], name: str) -> Any:
    """What the batch holds under this name."""
    if name not in batch:
        raise UserError(
            f"{type(task).__name__}: the batch has no '{name}', only {', '.join(sorted(batch))}.{nearest(name, batch)}"
        )
    return batch[name]


def complete(task: object, batch: Mapping[str, Any], name: str) -> Tensor:
    """What the batch holds under this name, of all samples."""
    found = entry(task, batch, name)
    if "present" in batch and not batch["present"][name].all():
        raise UserError(
            f"{type(task).__name__}: samples of a batch have no '{name}', only a stand-in (missing: mask). Set "
            "data.missing to error, or give shards in which all have it."
        )
    return found


def pictures(task: object, batch: Mapping[str, Any], name: str) -> Tensor:
    """Images `(B, C, H, W)` in 0..1, of all samples; or their token ids, as they are."""
    found = complete(task, batch, name)
    return found.float() / 255 if found.ndim == 4 and found.dtype == torch.uint8 else found
