"""Rows of images with their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor
from torchvision.utils import make_grid

from mmmask.report.figures import panels


def draw_rows(rows: Mapping[str, Tensor], path: Path) -> None:
    """A row of images `(n, C, H, W)` in 0..1 for each name."""
    columns = len(next(iter(rows.values())))
    pictures = [make_grid(images, nrow=columns, padding=1, pad_value=1.0).permute(1, 2, 0) for images in rows.values()]
    inches = 0.7
    with panels(path, [columns * inches + 1.2], len(rows) * inches + 0.2) as (axis,):
        axis.imshow(np.concatenate([picture.clamp(0, 1) for picture in pictures]), interpolation="nearest")
        height = pictures[0].shape[0]
        axis.set_yticks([height * (number + 0.5) for number in range(len(rows))], list(rows), fontsize=12)
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
