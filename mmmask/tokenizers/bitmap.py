"""Silhouettes, ink and edges of pictures as small bitmaps whose blocks are words: exact, nothing to train."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.tokenizers.codec import Codec
from mmmask.tokenizers.trained_codec import length_of, present, without
from mmmask.tokenizers.typed_files import picture_in
from mmmask.tokens import Data

Trait = Literal["alpha", "ink", "edges"]
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


class Bitmap(Codec):
    """A bitmap `size` x `size` of a picture `(B, C, H, W)`, uint8 or in 0..1: each block of `cell` x `cell` is one of
    the 2^(cell*cell) words there are of it. A picture with a NaN is absent, and decodes to NaN. Silhouettes and ink
    decode to pictures that read back as the same; edges to white lines, which have edges of their own.

    Args:
        size: of the bitmap.
        cell: side of a block.
        of: alpha (what an RGBA picture covers), ink (what is dark) or edges (how steep grey is).
        threshold: from which share of a pixel covered or dark, or which step of grey, in 0..1, a bit is set.
        source: entry of the batch that holds the pictures.
    """

    def __init__(
        self, size: int = 16, cell: int = 2, of: Trait = "alpha", threshold: float = 0.5, source: str | None = None
    ) -> None:
        super().__init__(source)
        if not 1 <= cell <= 4 or size < 1 or size % cell:
            raise UserError(f"Bitmap: cell is {cell} and size {size}; give 1 to 4, and a multiple of it.")
        if of not in Trait.__args__ or not 0 < threshold <= 1:  # type: ignore[attr-defined]
            raise UserError(f"Bitmap: of is '{of}', threshold {threshold}; give alpha, ink or edges, and 0 to 1.")
        self.size, self.cell, self.of, self.threshold = size, cell, of, threshold
        self.grid = size // cell

    def modality(self, name: str) -> Modality:
        """A grid of blocks."""
        return Modality(name, self.grid**2, 2 ** (self.cell**2), kind="grid")

    def encode(self, raw: Tensor) -> Data:
        """Words of all blocks, row by row."""
        blocks = self.bits(raw).view(-1, self.grid, self.cell, self.grid, self.cell).transpose(2, 3).flatten(3)
        ids = (blocks.long() << torch.arange(self.cell**2, device=raw.device)).sum(-1).flatten(1)
        return Data(ids.cpu().numpy(), length_of(present(raw), self.grid**2))

    def codes(self) -> Tensor:
        """The bits of each word."""
        return self._bits_of(torch.arange(2 ** (self.cell**2))).float()

    def typed(self, text: str) -> Tensor:
        return picture_in(Path(text), 4 if self.of == "alpha" else 3)[None]

    def bits(self, raw: Tensor) -> Tensor:
        """The bitmaps `(B, size, size)` themselves."""
        pictures = raw.float() / 255 if raw.dtype == torch.uint8 else raw.float()
        if self.of == "alpha":
            if pictures.shape[1] != 4:
                raise UserError(
                    f"Bitmap: pictures have {pictures.shape[1]} channels, alpha needs RGBA: read them with channels: 4."
                )
            amount = F.adaptive_avg_pool2d(pictures[:, 3:], self.size)
        elif self.of == "ink":
            amount = F.adaptive_avg_pool2d(1 - grey(pictures), self.size)
        else:
            amount = F.adaptive_max_pool2d(steepness(grey(pictures)), self.size)
        return amount[:, 0] >= self.threshold - 1e-6

    def decode(self, ids: Tensor, length: Tensor) -> Tensor:
        """Pictures `(B, C, size, size)` of zeros and ones: silhouettes as RGBA, black ink on white, white edges."""
        blocks = self._bits_of(ids).view(-1, self.grid, self.grid, self.cell, self.cell).transpose(2, 3)
        bits = blocks.reshape(-1, 1, self.size, self.size).float()
        if self.of == "alpha":
            bits = torch.cat([torch.zeros_like(bits).expand(-1, 3, -1, -1), bits], 1)
        return without(1 - bits if self.of == "ink" else bits, length > 0)

    def _bits_of(self, ids: Tensor) -> Tensor:
        return ids[..., None] >> torch.arange(self.cell**2, device=ids.device) & 1


def on_white(pictures: Tensor) -> Tensor:
    """Grey or RGB of grey, RGB or RGBA pictures `(B, C, H, W)`."""
    channels = pictures.shape[1]
    if channels not in (1, 3, 4):
        raise UserError(f"pictures have {channels} channels, expected 1, 3 or 4.")
    return pictures if channels < 4 else pictures[:, :3] * pictures[:, 3:] + 1 - pictures[:, 3:]


def grey(pictures: Tensor) -> Tensor:
    """Luminance `(B, 1, H, W)` of grey, RGB or RGBA pictures, the last on white."""
    pictures = on_white(pictures)
    if pictures.shape[1] == 1:
        return pictures
    return (pictures * pictures.new_tensor(LUMINANCE)[:, None, None]).sum(1, keepdim=True)


def steepness(pictures: Tensor) -> Tensor:
    """Sobel's magnitude `(B, 1, H, W)`, 1 at a step from black to white along an axis."""
    across = pictures.new_tensor(SOBEL) / 4
    filters = torch.stack([across, across.T])[:, None]
    return F.conv2d(F.pad(pictures, (1, 1, 1, 1), "replicate"), filters).square().sum(1, keepdim=True).sqrt()
