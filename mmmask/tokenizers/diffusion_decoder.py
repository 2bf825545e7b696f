"""A tokenizer whose decoder draws: diffusion of pixels that follows the codes (DiVAE, Shi et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import pi

import numpy as np
import torch
from torch import Tensor, nn

from mmmask.draws import Draws
from mmmask.errors import UserError
from mmmask.tokenizers.contents import Content, Intensity
from mmmask.tokenizers.image_tokenizer import Reconstruction
from mmmask.tokenizers.quantizers import Quantizer
from mmmask.tokenizers.vit_vq import Tokens2d, ViTTokenizer

NOISE = 0  # what the random numbers of a seed are for


class Level(nn.Module):
    """Norm, time, convolution, added to what came in: `(B, width, H, W)`."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.norm, self.time = nn.GroupNorm(1, width), nn.Linear(dim, 2 * width)
        self.conv = nn.Sequential(nn.GELU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
        return x + self.conv(self.norm(x) * (1 + scale) + shift)


class Denoiser(nn.Module):
    """A U-Net that says what noisy pixels `(B, C, H, W)` were, given features `(B, h, w, dim)` and the time `(B,)`.

    Inside it predicts v, so that little noise is left alone.
    """

    def __init__(self, channels: int, sizes: list[int], grid: int, depth: int, heads: int) -> None:
        super().__init__()
        dim = sizes[-1]
        self.tokens = Tokens2d(grid, dim, depth, heads)
        self.time = nn.Sequential(nn.Linear(16, dim), nn.GELU(), nn.Linear(dim, dim))
        self.stem = nn.Conv2d(channels, sizes[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.going_down, self.going_up = nn.ModuleList(), nn.ModuleList()
        for narrow, wide in pairwise(sizes):
            self.going_down.append(Level(narrow, dim))
            self.down.append(nn.Conv2d(narrow, wide, 4, stride=2, padding=1))
            self.up.insert(0, nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1))
            self.going_up.insert(0, Level(narrow, dim))
        self.middle = Level(dim, dim)
        self.head = nn.Sequential(nn.GELU(), nn.Conv2d(sizes[0], channels, 3, padding=1))

    def features(self, codes: Tensor) -> Tensor:
        """What is the same at all times."""
        return self.tokens(codes).permute(0, 3, 1, 2)

    def forward(self, noisy: Tensor, features: Tensor, t: Tensor) -> Tensor:
        time = self.time(_waves(t))
        x, passed = self.stem(noisy), []
        for level, down in zip(self.going_down, self.down, strict=True):
            x = level(x, time)
            passed.append(x)
            x = down(x)
        x = self.middle(x + features, time)
        for level, up in zip(self.going_up, self.up, strict=True):
            x = level(up(x) + passed.pop(), time)
        keep, noise = _shares(t)
        return keep * noisy - noise * self.head(x)


class DiffusionTokenizer(ViTTokenizer):
    """A `ViTTokenizer` whose decoder is a denoiser: it draws images that fit the tokens, in `steps` steps of DDIM.

    It is trained with the encoder by the error of the denoised images. Draws are sharper than means, and farther off in
    squared error. A draw is a function of ids and seed alone.
    """

    decoder: Denoiser  # type: ignore[assignment]

    def __init__(
        self,
        quantizer: Quantizer,
        image_size: int = 32,
        channels: int = 3,
        patch: int = 4,
        dim: int = 128,
        depth: int = 1,
        heads: int = 4,
        width: int = 32,
        content: Content | None = None,
        steps: int = 25,
    ) -> None:
        super().__init__(quantizer, image_size, channels, patch, dim, depth, heads, width, content)
        if not isinstance(self.content, Intensity):
            raise UserError("DiffusionTokenizer: content must be an Intensity: only numbers of a range are diffused.")
        if steps < 1:
            raise UserError(f"DiffusionTokenizer: steps is {steps}; it takes 1 or more.")
        sizes = [width << i for i in range(patch.bit_length() - 1)] + [dim]
        self.decoder, self.steps = Denoiser(channels, sizes, self.grid, depth, heads), steps

    def forward(self, images: Tensor) -> Reconstruction:
        """Images as they are denoised from a random time on."""
        codes, ids, loss = self._quantized(images)
        pixels = self.content.planes(images, self.channels)
        spread = torch.arange(len(pixels), device=pixels.device) / len(pixels)
        t = (torch.rand((), device=pixels.device) + spread) % 1
        keep, noise = _shares(t)
        noisy = keep * pixels + noise * torch.randn_like(pixels)
        found = self.decoder(noisy, self.decoder.features(self.from_code(codes)), t)
        return Reconstruction(self.content.output(found), ids, loss)

    @torch.no_grad()
    def decode(self, ids: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Images drawn for ids `(B, h, w)`, each by its seed (default: 0 for all)."""
        self.check_ids(ids)
        features = self.decoder.features(self.from_code(self.quantizer.codes(ids)))
        x = self._noise([0] * len(ids) if seeds is None else seeds, features)
        times = torch.linspace(1, 0, self.steps + 1, device=x.device).expand(len(ids), -1).unbind(1)
        for now, after in pairwise(times):
            found = self.decoder(x, features, now).clamp(-1, 1)
            (keep, noise), (kept, noise_left) = _shares(now), _shares(after)
            x = kept * found + noise_left * (x - keep * found) / noise
        return self.content.finish(self.content.output(x))

    def _noise(self, seeds: Sequence[int], like: Tensor) -> Tensor:
        uniform = Draws(np.array(seeds, dtype=np.uint64)).uniform(
            (NOISE,), self.channels, self.image_size, self.image_size
        )
        return torch.special.ndtri(torch.from_numpy(uniform)).to(like)


def _shares(t: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the image and of the noise `(B, 1, 1, 1)` there is at a time: all image at 0, all noise at 1."""
    angle = t[:, None, None, None] * pi / 2
    return angle.cos(), angle.sin()


def _waves(t: Tensor) -> Tensor:
    """Times as `(B, 16)`."""
    angle = t[:, None] * pi * 2 ** torch.arange(8, device=t.device) / 2
    return torch.cat([angle.sin(), angle.cos()], 1)
