"""Tokens of the published 4M's modalities, as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmmask.catalogue import known
from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.tokenizers.codec import Codec
from mmmask.tokenizers.trained_codec import length_of, present, without
from mmmask.tokens import Data


class PublishedTokens(Codec):
    """A modality of 4M's catalogue whose tokens are made elsewhere, by its own tokenizers: ids `(B, L)` or `(B, h, w)`.
    Of T5's captions, vectors `(B, L, 4096)`, after which there may be rows of NaN. A sample of -1 or NaN is absent.

    Args:
        of: its name there, such as tok_clip@224.
        source: entry of the batch that holds the tokens.
    """

    def __init__(self, of: str, source: str | None = None) -> None:
        super().__init__(source)
        self.like = known(of)
        if self.like.sentinels is not None:
            raise UserError(f"PublishedTokens: {of} is written in words: take Words, with 4M's vocabulary.")
        if self.like.channels is not None and self.like.kind == "grid":
            raise UserError(f"PublishedTokens: {of} are pixels: take Patches.")

    def modality(self, name: str) -> Modality:
        return replace(self.like, name=name)

    def encode(self, raw: Tensor) -> Data:
        if self.like.vocab_size is None:
            return self._vectors(raw)
        there, ids = present(raw), raw.flatten(1).cpu()
        if ids.shape[1] != self.like.length or ids.is_floating_point():
            raise UserError(f"PublishedTokens: {self.like.name} are {self.like.length} ids, not {_told(raw)}.")
        ids = torch.where(there[:, None], ids.long(), 0)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.like.vocab_size:
            wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
            raise UserError(f"PublishedTokens: {wrong} is none of the {self.like.vocab_size} ids of {self.like.name}.")
        return Data(ids.numpy(), length_of(there, self.like.length))

    def _vectors(self, raw: Tensor) -> Data:
        length, channels = self.like.length, self.like.channels
        if raw.ndim != 3 or raw.shape[1] > length or raw.shape[2] != channels:
            raise UserError(
                f"PublishedTokens: {self.like.name} are up to {length} vectors of {channels} numbers, not {_told(raw)}."
            )
        there = ~raw.isnan().any(2).cpu().numpy()
        ids = np.tile(np.arange(raw.shape[1]), (len(raw), 1))
        return Data(ids, there.cumprod(1).sum(1), values=raw.float().nan_to_num(0.0))

    def decode(self, ids: Tensor, length: Tensor) -> Tensor:
        """Ids as they are; -1 where there are none."""
        return without(ids.long(), length > 0)

    def typed(self, text: str) -> Tensor:
        """The path of an .npy of one sample."""
        try:
            return torch.from_numpy(np.load(Path(text), allow_pickle=False))[None]
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{text} is no .npy file with the tokens of one sample: {error}.") from error

    def seen(self, raw: Tensor) -> list[str]:
        """The ids; of vectors, how many."""
        if raw.is_floating_point():
            return [f"{raw.shape[1]} vectors"] * len(raw)
        return [" ".join(map(str, ids)) for ids in raw.flatten(1).tolist()]


def _told(raw: Tensor) -> str:
    return f"{raw.dtype} {tuple(raw.shape[1:])}".removeprefix("torch.")
