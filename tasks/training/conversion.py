"""Checkpoints that one process reads (a file) from those that many write (a folder), and back."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import CheckpointException

from mmmask.errors import UserError
from mmmask.files import written_whole
from tasks.training import finding, sharded


def to_full(folder: Path, file: Path) -> None:
    """Make one file of a sharded checkpoint; a run of one process, or DDP, goes on from it as it is."""
    _refuse_existing(file)
    checkpoint = whole(folder)
    with written_whole(file) as stream:
        torch.save(checkpoint, stream)


def to_sharded(file: Path, folder: Path) -> None:
    """Make a sharded checkpoint of one file. (FullySharded reads files too, but all of them on each rank.)"""
    _refuse_existing(folder)
    finding.checked(file)
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"checkpoint {file} cannot be read ({sharded.reason(error)}).") from error
    partial = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        sharded.write(checkpoint, partial, moved=lambda tensor: True)
        sharded.take_place(partial, folder)
    except (CheckpointException, OSError) as error:
        raise UserError(f"cannot write {folder}: {sharded.reason(error)}. Choose another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def whole(folder: Path) -> dict[str, Any]:
    """The content of a sharded checkpoint, all in the memory of this process."""
    if not sharded.is_sharded(folder):
        raise UserError(f"{folder} is no sharded checkpoint: it has no {sharded.META}.")
    return sharded.read(folder, lambda path, tensor: torch.empty_like(tensor, device="cpu"))


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} exists already: choose another name.")
