"""The way of a batch from a worker to the main process."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

SMALL = 1 << 18  # bytes


class _Narrow(NamedTuple):
    """64-bit ids on their way through the pipe as 32-bit ones."""

    ids: np.ndarray


def packed(batch: dict[str, Any]) -> dict[str, Any]:
    """Small tensors leave a worker as arrays, through the pipe: a shared-memory file for each costs far more.

    The pipe's time is proportional to the bytes, so integers that fit travel in half of theirs.
    """
    return {name: _narrowed(value) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def _narrowed(tensor: torch.Tensor) -> torch.Tensor | np.ndarray | _Narrow:
    if tensor.element_size() * tensor.numel() > SMALL:
        return tensor
    array = tensor.numpy()
    if array.dtype == np.int64 and ((narrow := array.astype(np.int32)) == array).all():
        return _Narrow(narrow)
    return array


def unpacked(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch as it was before `packed`."""
    return {name: _widened(value) for name, value in batch.items()}


def _widened(value: Any) -> Any:
    if isinstance(value, _Narrow):
        return torch.from_numpy(value.ids).long()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
