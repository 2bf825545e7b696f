"""How a checkpoint becomes a file, and is read again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from mmmask.errors import UserError
from mmmask.files import written_whole
from tasks.training import conversion, sharded


class WholeFiles(TorchCheckpointIO):
    """Writes beside the target, fsyncs, renames. (Lightning's own writes into TMPDIR; moving the file from there is
    a copy if that is another disk, and a kill in the middle of it leaves half a checkpoint.)"""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as stream:
                torch.save(checkpoint, stream)
        except (UserError, OSError, RuntimeError) as error:  # torch hides an OSError in a RuntimeError
            raise UserError(f"cannot write {path}: {_reason(error)} ({_room(checkpoint, path.parent)}).") from error

    def load_checkpoint(self, path: str | Path, *others: Any, **options: Any) -> dict[str, Any]:
        """A file, or the whole of a sharded checkpoint."""
        if sharded.is_sharded(Path(path)):
            return conversion.whole(Path(path))
        return super().load_checkpoint(path, *others, **options)


def _reason(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error).strip().splitlines()[0].rstrip(".")


def _room(checkpoint: dict[str, Any], folder: Path) -> str:
    free = shutil.disk_usage(folder if folder.exists() else Path.cwd()).free
    return f"it takes {_bytes(checkpoint) / 2**20:,.1f} MiB, {free / 2**20:,.1f} MiB of the disk are free"


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(_bytes(part) for part in parts)
