"""A vision transformer on both sides of a quantizer (ViT-VQGAN, Yu et al. 2021, without the GAN).

image -> convolutions -> patches -> blocks -> quantizer -> blocks -> patches -> convolutions -> image
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.tokenizers.quantizers import Quantized, Quantizer
from mmmask.transformer import Block


class Reconstruction(NamedTuple):
    """An image after the way through its tokens, with the quantizer's own loss."""

    images: Tensor  # (B, C, H, W), not clamped, so that gradients never stop
    ids: Tensor  # (B, h, w)
    loss: Tensor  # ()


class Encoder(nn.Module):
    """Image `(B, C, H, W)` in -1..1 to features `(B, h, w, dim)`."""

    def __init__(self, channels: int, width: int, patch: int, grid: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.GELU())
        self.patches = nn.Conv2d(width, dim, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(grid * grid, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(self.stem(images))  # (B, dim, h, w)
        h = x.shape[-2]
        x = x.flatten(2).transpose(1, 2) + self.position
        return self.norm(self.blocks(x)).unflatten(1, (h, -1))


class Decoder(nn.Module):
    """Features `(B, h, w, dim)` to image `(B, C, H, W)` in -1..1."""

    def __init__(self, channels: int, width: int, patch: int, grid: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(grid * grid, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.patches = nn.ConvTranspose2d(dim, width, patch, stride=patch)
        self.head = nn.Sequential(
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = x.shape[1]
        x = self.norm(self.blocks(x.flatten(1, 2) + self.position))
        return self.head(self.patches(x.transpose(1, 2).unflatten(2, (h, -1))))


class ViTTokenizer(nn.Module):
    """Images to a grid of token ids and back.

    `width` counts the channels of the full-size convolutions, `dim` those of the blocks; `depth` blocks
    stand on each side of the quantizer.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        image_size: int = 32,
        channels: int = 3,
        patch: int = 4,
        dim: int = 128,
        depth: int = 2,
        heads: int = 4,
        width: int = 32,
    ) -> None:
        super().__init__()
        if patch < 1 or image_size < 1 or image_size % patch:
            raise UserError(
                f"ViTTokenizer: image_size {image_size} does not divide into patches of {patch}; "
                "choose an image_size that is a multiple of patch."
            )
        if min(channels, dim, width) < 1 or depth < 0:
            raise UserError(
                f"channels {channels}, dim {dim}, width {width} must be at least 1, depth {depth} at least 0."
            )
        self.image_size, self.channels, self.grid = image_size, channels, image_size // patch
        self.vocab_size = quantizer.vocab_size
        self.encoder = Encoder(channels, width, patch, self.grid, dim, depth, heads)
        self.to_code = nn.Linear(dim, quantizer.dim)
        self.quantizer = quantizer
        self.from_code = nn.Linear(quantizer.dim, dim)
        self.decoder = Decoder(channels, width, patch, self.grid, dim, depth, heads)

    def forward(self, images: Tensor) -> Reconstruction:
        z_q, ids, loss = self._quantized(images)
        return Reconstruction(self._images(z_q), ids, loss)

    def encode(self, images: Tensor) -> Tensor:
        """Token ids `(B, h, w)` of images `(B, C, H, W)` in 0..1."""
        return self._quantized(images).ids

    def decode(self, ids: Tensor) -> Tensor:
        """Images in 0..1 for token ids `(B, h, w)`."""
        if ids.shape[1:] != (self.grid, self.grid):
            raise UserError(
                f"ViTTokenizer: ids are {tuple(ids.shape)}, expected (B, {self.grid}, {self.grid}); "
                "decode the ids of a tokenizer with the same image_size and patch."
            )
        return self._images(self.quantizer.codes(ids)).clamp(0, 1)

    def _quantized(self, images: Tensor) -> Quantized:
        expected = (self.channels, self.image_size, self.image_size)
        if images.shape[1:] != expected:
            raise UserError(
                f"ViTTokenizer: images are {tuple(images.shape[1:])}, expected {expected}; "
                "resize the data or set channels and image_size to fit it."
            )
        z = self.to_code(self.encoder(2 * images - 1))  # (B, h, w, code dim)
        z_q, ids, loss = self.quantizer(z.flatten(1, 2))
        size = (self.grid, self.grid)
        return Quantized(z_q.unflatten(1, size), ids.unflatten(1, size), loss)

    def _images(self, z_q: Tensor) -> Tensor:
        return (self.decoder(self.from_code(z_q)) + 1) / 2
