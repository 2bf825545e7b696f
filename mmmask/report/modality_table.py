"""A table of predictions: for each sample what was given, and each target beside its truth."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL, GAP, HEAD = 128, 6, 36  # pixels
Column = Tensor | Sequence[str]  # pictures (B, C, H, W) in 0..1, or texts


def modality_table(
    given: Mapping[str, Column], predicted: Mapping[str, Column], truth: Mapping[str, Column] | None = None
) -> Tensor:
    """The picture `(3, H, W)` in 0..1: a row for each sample; given, predicted and, where it is told, true columns."""
    columns: list[tuple[str, Column]] = [(f"given\n{name}", column) for name, column in given.items()]
    for name, column in predicted.items():
        columns.append((f"predicted\n{name}", column))
        if truth is not None and name in truth:
            columns.append((f"true\n{name}", truth[name]))
    samples = max(len(column) for _, column in columns)
    size = len(columns) * (CELL + GAP) + GAP, HEAD + samples * (CELL + GAP)
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, (name, column) in enumerate(columns):
        left = GAP + number * (CELL + GAP)
        draw.multiline_text((left, 3), name[:32], fill="black", font=font, spacing=1)
        for row in range(len(column)):
            top = HEAD + row * (CELL + GAP)
            if isinstance(column, Tensor):
                page.paste(_thumbnail(column[row]), (left, top))
            else:
                draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline="lightgrey")
                lines = textwrap.wrap(column[row] or "(none)", 19)[:8]
                draw.multiline_text((left + 5, top + 5), "\n".join(lines), fill="black", font=font)
    return torch.from_numpy(np.array(page)).permute(2, 0, 1) / 255


def _thumbnail(picture: Tensor) -> Image.Image:
    """A picture `(C, H, W)`, as large as a cell; what is transparent is white, what is absent (NaN) light grey."""
    pixels = picture.detach().float().cpu().nan_to_num(0.9).clamp(0, 1)
    if len(pixels) == 4:
        pixels = pixels[:3] * pixels[3:] + 1 - pixels[3:]
    pixels = F.interpolate(pixels.expand(3, -1, -1)[None], (CELL, CELL), mode="nearest")[0]
    return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy())
