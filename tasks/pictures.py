"""Pictures of a run: files in its folder, and loggers that take images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.utils import make_grid, save_image

SHOWN_PIXELS = 112  # least side of an image in a picture, so that small ones are visible


def grid(images: Sequence[Tensor] | Tensor, columns: int) -> Tensor:
    """Images `(C, H, W)` in 0..1 side by side, enlarged if they are small."""
    scale = max(1, -(-SHOWN_PIXELS // images[0].shape[-1]))
    picture = make_grid(list(images), nrow=columns, padding=1, pad_value=1.0)
    return picture.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def show(task: pl.LightningModule, name: str, picture: Tensor | None) -> None:
    """Write rank 0's picture of this step to `samples/` in the run folder, and to the loggers. All ranks call it,
    also those that have none."""
    folder = Path(task.trainer.log_dir or task.trainer.default_root_dir) / "samples"  # the ranks agree on it here
    if not task.trainer.is_global_zero or task.trainer.sanity_checking or picture is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_image(picture, folder / f"{name}-step-{task.global_step:06d}.png")
    for logger in task.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, task.global_step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], task.global_step)
