"""Checkpoints as people name them -> files that are there, whole and safe to read."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import NamedTuple

import torch

from mmmask.errors import UserError
from tasks.training import sharded


def named(name: str, root: Path) -> Path | None:
    """`last` or `best`: the checkpoint of the newest run in `root` that has one; anything else is a path."""
    if name not in ("last", "best"):
        return Path(name)
    return next((path for run in runs(root) if (path := run / "checkpoints" / f"{name}.ckpt").exists()), None)


def runs(root: Path) -> list[Path]:
    """The runs in this folder, the newest first."""
    numbered = {int(match[1]): path for path in root.glob("run-*") if (match := re.fullmatch(r"run-(\d+)", path.name))}
    return [numbered[number] for number in sorted(numbered, reverse=True)]


def newest(run: Path) -> Path:
    """best.ckpt, or else last.ckpt, of a run folder or of the newest run in a folder of runs."""
    for folder in (run, *runs(run)):
        for name in ("best.ckpt", "last.ckpt"):
            if (path := folder / "checkpoints" / name).exists():
                return path
    raise UserError(f"{run} holds no checkpoint (checkpoints/last.ckpt). Let the training reach its first one.")


def trained(run: Path) -> tuple[Path, Path]:
    """The newest checkpoint of a run folder, looked at, and the configuration it was trained with."""
    if not run.is_dir():
        raise UserError(f"there is no run folder {run}. Train first: mmmask fit --config ...")
    checkpoint = newest(run)
    config = checkpoint.parent.parent / "config.yaml"
    if not config.is_file():
        raise UserError(f"there is no {config} that says what {checkpoint.name} is a checkpoint of.")
    checked(checkpoint)
    return checkpoint, config


def of_checkpoint(path: Path, root: Path) -> Path | None:
    """The run in `root` whose last checkpoint this is: going on from it continues that run. Going on from any other
    begins a run of its own, for what came after is not to be lost."""
    folder = path.absolute().parent.parent
    last = folder / "checkpoints" / "last.ckpt"
    is_last = last.exists() and last.samefile(path)
    return folder if is_last and (folder / "config.yaml").is_file() and folder.parent == root.absolute() else None


class Resumed(NamedTuple):
    """A checkpoint that was found to be one."""

    path: Path
    step: int


def checked(path: Path) -> Resumed:
    """Refuse a checkpoint that is missing, cut, foreign, or holds more than tensors and plain values."""
    if not path.exists():
        raise UserError(f"checkpoint {path} does not exist.")
    file = path / sharded.META if sharded.is_sharded(path) else path
    try:
        content = torch.load(file, map_location="meta", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint {path} holds Python objects, which can run code: it is not loaded.") from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(f"checkpoint {path} is damaged or no checkpoint at all. Take an older one.") from error
    if not isinstance(content, dict) or not {"state_dict", "loops", "global_step"} <= content.keys():
        raise UserError(f"checkpoint {path} was not written by a training of mmmask, so it cannot be continued.")
    return Resumed(path, content["global_step"])
