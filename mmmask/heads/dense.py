"""A class or a number for each pixel, of the features of a grid of tokens (the ConvNeXt heads of 4M and MultiMAE)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import MulticlassJaccardIndex

from mmmask.errors import UserError
from mmmask.heads.readout import UNLABELLED, Readout, cross_entropy

VOID = 255  # what class maps of 8 bits hold where there is no class


class DenseHead(Readout):
    """Maps `(B, channels, size, size)`: each token becomes `fine` x `fine` places, on which ConvNeXt blocks work; the
    rest of the way is bilinear.

    Args:
        dim: of the features.
        channels: of the map.
        of: modality whose grid it looks at; the encoder has seen all others.
        size: pixels of a side of the map.
        width: channels of the blocks.
        depth: how many blocks.
        fine: places on each side of a token.
    """

    def __init__(
        self, dim: int, channels: int, of: str, size: int, width: int = 64, depth: int = 2, fine: int = 4
    ) -> None:
        super().__init__(dim, of)
        if min(channels, size, width, depth + 1, fine) < 1:
            raise UserError(
                f"{type(self).__name__}: channels, size, width and fine must be 1 or more, depth 0 or more; they are "
                f"{channels}, {size}, {width}, {fine} and {depth}."
            )
        self.size, self.fine = size, fine
        self.norm, self.embed = nn.LayerNorm(dim), nn.Linear(dim, width * fine**2)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(depth)))
        self.out = nn.Conv2d(width, channels, 1)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        side = math.isqrt(features.shape[1])
        x = self.embed(self.norm(features)).mT.unflatten(2, (side, side))
        x = self.out(self.blocks(F.pixel_shuffle(x, self.fine)))
        return F.interpolate(x, (self.size, self.size), mode="bilinear")

    def sized(self, raw: Tensor) -> Tensor:
        """Maps `(B, H, W)` of a batch, without their channel of one."""
        found = raw[:, 0] if raw.ndim == 4 and raw.shape[1] == 1 else raw
        if found.shape[1:] != (self.size, self.size):
            raise UserError(
                f"{type(self).__name__}: maps have the shape {tuple(raw.shape[1:])}, the head is for "
                f"{self.size}x{self.size}; set its size, or that of the reader."
            )
        return found


class SegmentationHead(DenseHead):
    """The class of each pixel; cross entropy, mean intersection over union. Pixels of 255 or below 0 do not count."""

    ignored = UNLABELLED

    def __init__(
        self, dim: int, classes: int, of: str, size: int, width: int = 64, depth: int = 2, fine: int = 4
    ) -> None:
        super().__init__(dim, classes, of, size, width, depth, fine)
        self.classes = classes

    def wanted(self, raw: Tensor) -> Tensor:
        found = self.sized(raw).long()
        found = torch.where((found == VOID) | (found < 0), UNLABELLED, found)
        if found.numel() and int(found.max()) >= self.classes:
            raise UserError(
                f"SegmentationHead: class {int(found.max())} in the data, but the head knows 0 to {self.classes - 1}; "
                "set its classes."
            )
        return found

    def loss(self, answers: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy(answers, wanted)

    def metrics(self) -> dict[str, Metric]:
        return {"miou": MulticlassJaccardIndex(self.classes, ignore_index=UNLABELLED)}


class DepthHead(DenseHead):
    """A number for each pixel, such as its depth; absolute error. NaN and infinity do not count.

    uint8 is 0..255 of 0..1; the white around crops that are larger than their image counts as 1.
    """

    ignored = math.nan

    def __init__(self, dim: int, of: str, size: int, width: int = 64, depth: int = 2, fine: int = 4) -> None:
        super().__init__(dim, 1, of, size, width, depth, fine)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """`(B, size, size)`"""
        return super().forward(features, valid)[:, 0]

    def wanted(self, raw: Tensor) -> Tensor:
        found = self.sized(raw)
        return found.float() / 255 if found.dtype == torch.uint8 else found.float()

    def loss(self, answers: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        there = wanted.isfinite()
        error = torch.where(there, answers.float() - wanted.nan_to_num(0.0, 0.0, 0.0), 0.0)
        return error.abs().sum(), there.sum().to(error.dtype)

    def metrics(self) -> dict[str, Metric]:
        return {"l1": MeanAbsoluteError()}

    def counted(self, answers: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        there = wanted.isfinite()
        return answers[there], wanted[there]


class ConvNeXtBlock(nn.Module):
    """`(B, width, H, W)` to the same (Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, 1e-6)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).movedim(1, -1))
        return x + self.down(F.gelu(self.up(y))).movedim(-1, 1)
