"""Codecs of pictures: as the words of a tokenizer, or as patches of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.tokenizers.codec import Codec
from mmmask.tokenizers.image_tokenizer import ImageTokenizer
from mmmask.tokens import Data

MEAN, SPREAD = 0.5, 0.25  # of pixels in 0..1, near enough for any set


class Pictures(Codec):
    """A grid of words out of a tokenizer, which is frozen; batches hold what it is made for, or its ids.

    Ids are `(B, h, w)` or `(B, L)`. A sample of -1 only, or with a NaN, is absent, and decodes to such a one.
    """

    def __init__(self, tokenizer: ImageTokenizer, source: str | None = None) -> None:
        super().__init__(source)
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.length, self.shapes = tokenizer.grid**2, ((tokenizer.grid, tokenizer.grid), (tokenizer.grid**2,))

    def train(self, mode: bool = True) -> Pictures:
        """The tokenizer stays in eval mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def modality(self, name: str) -> Modality:
        return Modality(name, self.length, self.tokenizer.vocab_size)

    def encode(self, raw: Tensor) -> Data:
        there = present(raw)
        if raw.is_floating_point() or tuple(raw.shape[1:]) not in self.shapes:
            ids = torch.zeros(len(raw), self.length, dtype=torch.long)
            if there.any():
                ids[there] = self._encoded(raw[there])
        else:
            ids = torch.where(there[:, None], raw.flatten(1).cpu().long(), 0)
        self._check(ids)
        return Data(ids.numpy(), length_of(there, self.length))

    @torch.no_grad()
    def decode(self, ids: Tensor, length: Tensor) -> Tensor:
        there, side = length > 0, self.tokenizer.grid
        ids = torch.where(there[:, None], ids, 0)
        self._check(ids)
        found = self.tokenizer.decode(ids.view(-1, side, side))
        return without(found, there)

    def _encoded(self, raw: Tensor) -> Tensor:
        """Ids `(B, L)` of pictures, on the CPU."""
        device = next(self.tokenizer.parameters()).device
        return self.tokenizer.encode(pixels(raw.to(device))).flatten(1).cpu()

    def _check(self, ids: Tensor) -> None:
        words = self.tokenizer.vocab_size
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < words:
            wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
            raise UserError(
                f"Pictures: the id {wrong} is no word of a tokenizer of {words}: give ids of the tokenizer that is "
                "set here."
            )


class Patches(Codec):
    """A grid of patches of pixels, `patch` on each side, standardised: nothing is lost, and nothing can be asked.

    The numbers of a patch are in the order of 4M: rows, columns, channels. `decode` takes values `(B, L, C)` in the
    place of ids. A picture with a NaN is absent, and decodes to NaN.
    """

    def __init__(self, image_size: int, channels: int = 3, patch: int = 16, source: str | None = None) -> None:
        super().__init__(source)
        if min(image_size, channels, patch) < 1 or image_size % patch:
            raise UserError(
                f"Patches: image_size {image_size} must be a multiple of patch ({patch}), and both, and channels "
                f"({channels}), 1 or more."
            )
        self.image_size, self.channels, self.patch, self.side = image_size, channels, patch, image_size // patch

    def modality(self, name: str) -> Modality:
        return Modality(name, self.side**2, channels=self.patch**2 * self.channels)

    def encode(self, raw: Tensor) -> Data:
        expected = (self.channels, self.image_size, self.image_size)
        if raw.shape[1:] != expected:
            raise UserError(
                f"Patches: pictures have the shape {tuple(raw.shape[1:])}, expected {expected}; resize the data, or "
                "set channels and image_size to fit it."
            )
        there, side, patch = present(raw), self.side, self.patch
        x = ((pixels(raw) - MEAN) / SPREAD).nan_to_num(0.0)
        x = x.view(-1, self.channels, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1)
        values = x.reshape(len(raw), side**2, -1)  # (B, L, patch * patch * channels)
        ids = np.tile(np.arange(side**2), (len(raw), 1))
        return Data(ids, length_of(there, side**2), values=values)

    def decode(self, ids: Tensor, length: Tensor) -> Tensor:
        side, patch = self.side, self.patch
        x = ids.view(-1, side, side, patch, patch, self.channels).permute(0, 5, 1, 3, 2, 4)
        found = x.reshape(-1, self.channels, self.image_size, self.image_size) * SPREAD + MEAN
        return without(found.clamp(0, 1), length > 0)


def pixels(raw: Tensor) -> Tensor:
    """Pictures in 0..1; uint8 are in 0..255."""
    return raw.float() / 255 if raw.dtype == torch.uint8 else raw


def present(raw: Tensor) -> Tensor:
    """Which samples `(B,)`, on the CPU, are there: not NaN, nor -1 only."""
    flat = raw.flatten(1)
    missing = flat.isnan().any(1) if raw.is_floating_point() else (flat == -1).all(1)
    return ~missing.cpu()


def without(found: Tensor, there: Tensor) -> Tensor:
    """What was found, with NaN or -1 for samples that are not there."""
    absent: Any = torch.nan if found.is_floating_point() else -1
    return torch.where(there.to(found.device).view(-1, *[1] * (found.ndim - 1)), found, absent)


def length_of(there: Tensor, length: int) -> np.ndarray:
    """How many tokens `(B,)` samples have that are there, or not."""
    return there.numpy() * np.int64(length)
