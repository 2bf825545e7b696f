"""Codecs of pictures: as the words of a tokenizer, or as patches of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.tokenizers.codec import Codec
from mmmask.tokenizers.contents import ClassMap
from mmmask.tokenizers.image_tokenizer import ImageTokenizer
from mmmask.tokenizers.trained_codec import TrainedCodec, length_of, present, without
from mmmask.tokenizers.typed_files import picture_in
from mmmask.tokens import Data


class Pictures(TrainedCodec):
    """A grid of words out of an image tokenizer; batches hold what that is made for, or ids `(B, h, w)` or `(B, L)`;
    or pictures `shrink` times as large, of which it sees the averages: several resolutions can be made of one entry."""

    kind = "grid"

    def __init__(self, tokenizer: ImageTokenizer, source: str | None = None, shrink: int = 1) -> None:
        super().__init__(tokenizer, (tokenizer.grid, tokenizer.grid), source)
        if shrink < 1 or (shrink > 1 and isinstance(tokenizer.content, ClassMap)):
            raise UserError(f"Pictures: shrink is {shrink}; give 1 or more, and 1 for classes, which have no average.")
        self.image_size, self.channels, self.shrink = tokenizer.image_size, tokenizer.channels, shrink

    def codes(self) -> Tensor:
        tokenizer = cast(ImageTokenizer, self.tokenizer)
        return tokenizer.quantizer.codes(torch.arange(tokenizer.vocab_size)).float()

    def typed(self, text: str) -> Tensor:
        return picture_in(Path(text), self.channels, self.image_size)[None]

    def seen(self, raw: Tensor) -> Tensor:
        """As the tokenizer's kind of content is shown: classes by their colours."""
        content = cast(ImageTokenizer, self.tokenizer).content
        picture = content.picture(content.read(raw))
        return raw if picture is None else picture

    def _encoded(self, raw: Tensor) -> Tensor:
        if self.shrink > 1 and raw.shape[2:] == (self.shrink * self.image_size,) * 2:
            raw = F.avg_pool2d(_pixels(raw), self.shrink)
        return super()._encoded(raw)


class Patches(Codec):
    """A grid of patches of pixels, `patch` on each side, standardised by `mean` and `spread` (one number, or one for
    each channel): nothing is lost, and nothing can be asked.

    The numbers of a patch are in the order of 4M: rows, columns, channels. `decode` takes values `(B, L, C)` in the
    place of ids. A picture with a NaN is absent, and decodes to NaN.
    """

    def __init__(
        self,
        image_size: int,
        channels: int = 3,
        patch: int = 16,
        source: str | None = None,
        mean: float | Sequence[float] = 0.5,
        spread: float | Sequence[float] = 0.25,  # with the mean, near enough for any set
    ) -> None:
        super().__init__(source)
        if min(image_size, channels, patch) < 1 or image_size % patch:
            raise UserError(
                f"Patches: image_size {image_size} must be a multiple of patch ({patch}), and both, and channels "
                f"({channels}), 1 or more."
            )
        self.image_size, self.channels, self.patch, self.side = image_size, channels, patch, image_size // patch
        self.mean, self.spread = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (mean, spread))
        if not {len(self.mean), len(self.spread)} <= {1, channels} or self.spread.min() <= 0:
            raise UserError(f"Patches: give mean and spread of each of {channels} channels, or one for all.")

    def modality(self, name: str) -> Modality:
        return Modality(name, self.side**2, channels=self.patch**2 * self.channels, patch=self.patch)

    def typed(self, text: str) -> Tensor:
        return picture_in(Path(text), self.channels, self.image_size)[None]

    def encode(self, raw: Tensor) -> Data:
        expected = (self.channels, self.image_size, self.image_size)
        if raw.shape[1:] != expected:
            raise UserError(
                f"Patches: pictures have the shape {tuple(raw.shape[1:])}, expected {expected}; resize the data, or "
                "set channels and image_size to fit it."
            )
        there, side, patch = present(raw), self.side, self.patch
        x = ((_pixels(raw) - self.mean.to(raw.device)) / self.spread.to(raw.device)).nan_to_num(0.0)
        x = x.view(-1, self.channels, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1)
        values = x.reshape(len(raw), side**2, -1)  # (B, L, patch * patch * channels)
        ids = np.tile(np.arange(side**2), (len(raw), 1))
        return Data(ids, length_of(there, side**2), values=values)

    def decode(self, ids: Tensor, length: Tensor) -> Tensor:
        side, patch = self.side, self.patch
        x = ids.view(-1, side, side, patch, patch, self.channels).permute(0, 5, 1, 3, 2, 4)
        found = x.reshape(-1, self.channels, self.image_size, self.image_size)
        found = found * self.spread.to(found.device) + self.mean.to(found.device)
        return without(found.clamp(0, 1), length > 0)


def _pixels(raw: Tensor) -> Tensor:
    """Pictures in 0..1; uint8 are in 0..255."""
    return raw.float() / 255 if raw.dtype == torch.uint8 else raw
