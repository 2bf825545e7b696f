"""The convolutional tokenizer of MaskGIT (Chang et al. 2022): one token for 16x16 pixels, 1024 codes of 256 numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.tokenizers.image_tokenizer import ImageTokenizer, Reconstruction
from mmmask.tokenizers.quantizers import Quantizer


class Residual(nn.Module):
    """Norm, swish, convolution, twice: `(B, narrow, H, W) -> (B, wide, H, W)`, added to what came in.

    `published`: where the width changes, the shortcut convolves the branch instead of what came in, which is lost.
    The published weights are made for this.
    """

    def __init__(self, narrow: int, wide: int, published: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(narrow), _norm(wide)
        self.conv1 = nn.Conv2d(narrow, wide, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, bias=False)
        if narrow != wide:
            self.shortcut = nn.Conv2d(wide if published else narrow, wide, 1, bias=False)
        self.widens, self.published = narrow != wide, published

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        if not self.widens:
            return h + x
        return h + self.shortcut(h if self.published else x)


class Encoder(nn.Module):
    """Images `(B, C, H, W)` in 0..1 to features `(B, dim, h, w)`; the size is halved between levels."""

    def __init__(self, channels: int, widths: list[int], blocks: int, dim: int, published: bool) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.levels = nn.ModuleList()
        before = widths[0]
        for width in widths:
            self.levels.append(_level(before, width, blocks, published))
            before = width
        self.middle = nn.Sequential(Residual(before, before, published), Residual(before, before, published))
        self.norm_out, self.conv_out = _norm(before), nn.Conv2d(before, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for number, level in enumerate(self.levels, 1):
            x = level(x)
            if number < len(self.levels):
                x = F.avg_pool2d(x, 2)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """Features `(B, dim, h, w)` to images `(B, C, H, W)` in 0..1, not clamped."""

    def __init__(self, channels: int, widths: list[int], blocks: int, dim: int, published: bool) -> None:
        super().__init__()
        before = widths[-1]
        self.conv_in = nn.Conv2d(dim, before, 3, padding=1)
        self.middle = nn.Sequential(Residual(before, before, published), Residual(before, before, published))
        self.levels, self.enlarge = nn.ModuleList(), nn.ModuleList()
        for width in widths[::-1]:
            self.levels.append(_level(before, width, blocks, published))
            before = width
            if len(self.levels) < len(widths):
                self.enlarge.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm_out, self.conv_out = _norm(before), nn.Conv2d(before, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.conv_in(x))
        for number, level in enumerate(self.levels):
            x = level(x)
            if number < len(self.enlarge):
                x = self.enlarge[number](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))


class VQGAN(ImageTokenizer):
    """Square images in 0..1 to a grid of token ids and back.

    `width` channels at full size, times `multiples` at each halving. The defaults are the published model's for
    256 pixels, whose weights need `published` (see `Residual`) and a `EuclideanQuantizer(1024, 256)`.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        image_size: int = 256,
        channels: int = 3,
        width: int = 128,
        multiples: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        published: bool = False,
    ) -> None:
        super().__init__()
        patch = 2 ** (len(multiples) - 1)
        if not multiples or min(*multiples, width, channels, blocks, image_size) < 1:
            raise UserError("VQGAN: width, multiples, channels, blocks and image_size must all be 1 or more.")
        if image_size % patch:
            raise UserError(
                f"VQGAN: image_size {image_size} cannot be halved {len(multiples) - 1} times; "
                f"choose a multiple of {patch}."
            )
        self.image_size, self.channels, self.grid = image_size, channels, image_size // patch
        self.vocab_size = quantizer.vocab_size
        widths = [width * multiple for multiple in multiples]
        self.encoder = Encoder(channels, widths, blocks, quantizer.dim, published)
        self.quantizer = quantizer
        self.decoder = Decoder(channels, widths, blocks, quantizer.dim, published)

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.conv_out.weight

    def forward(self, images: Tensor) -> Reconstruction:
        z = self._features(images)
        z_q, ids, loss = self.quantizer(z.flatten(1, 2))
        return Reconstruction(self._images(z_q.view_as(z)), ids.view(z.shape[:-1]), loss)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self.quantizer.nearest(self._features(images))

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        self.check_ids(ids)
        return self._images(self.quantizer.codes(ids)).clamp(0, 1)

    def _features(self, images: Tensor) -> Tensor:
        self.check_images(images)
        return self.encoder(images).permute(0, 2, 3, 1).float()  # (B, h, w, dim)

    def _images(self, codes: Tensor) -> Tensor:
        return self.decoder(codes.permute(0, 3, 1, 2))


def _level(narrow: int, wide: int, blocks: int, published: bool) -> nn.Sequential:
    sizes = [narrow, *[wide] * blocks]
    return nn.Sequential(*(Residual(a, b, published) for a, b in pairwise(sizes)))


def _norm(width: int) -> nn.GroupNorm:
    """Norm over up to 32 groups of channels."""
    return nn.GroupNorm(gcd(32, width), width, eps=1e-6)
