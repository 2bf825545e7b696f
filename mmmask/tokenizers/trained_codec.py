"""What codecs of trained tokenizers have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.modalities import Kind, Modality
from mmmask.tokenizers.codec import Codec
from mmmask.tokenizers.tokenizer import Tokenizer
from mmmask.tokens import Data


class TrainedCodec(Codec):
    """The words of a tokenizer, which is frozen; batches hold what it is made for, or its ids.

    A sample of -1 only, or with a NaN, is absent, and decodes to such a one.
    """

    kind: ClassVar[Kind]

    def __init__(self, tokenizer: Tokenizer, shape: tuple[int, ...], source: str | None = None) -> None:
        super().__init__(source)
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.shape, self.length = shape, tokenizer.length

    def train(self, mode: bool = True) -> TrainedCodec:
        """The tokenizer stays in eval mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def modality(self, name: str) -> Modality:
        return Modality(name, self.length, self.tokenizer.vocab_size, kind=self.kind)

    def encode(self, raw: Tensor) -> Data:
        there = present(raw)
        if raw.is_floating_point() or tuple(raw.shape[1:]) not in (self.shape, (self.length,)):
            ids = torch.zeros(len(raw), self.length, dtype=torch.long)
            if there.any():
                ids[there] = self._encoded(raw[there.to(raw.device)])
        else:
            ids = torch.where(there[:, None], raw.flatten(1).cpu().long(), 0)
        self._check(ids)
        return Data(ids.numpy(), length_of(there, self.length))

    @torch.no_grad()
    def decode(self, ids: Tensor, length: Tensor) -> Tensor:
        there = length.to(ids.device) > 0
        ids = torch.where(there[:, None], ids, 0)
        self._check(ids)
        return without(self.tokenizer.decode(ids.view(-1, *self.shape)), there)

    def _encoded(self, raw: Tensor) -> Tensor:
        """Ids `(B, L)` of raw data, on the CPU."""
        raw = raw.to(next(self.tokenizer.parameters()).device)
        return self.tokenizer.encode(self.tokenizer.content.read(raw)).flatten(1).cpu()

    def _check(self, ids: Tensor) -> None:
        words = self.tokenizer.vocab_size
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < words:
            wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
            raise UserError(
                f"{type(self).__name__}: the id {wrong} is no word of a tokenizer of {words}: give ids of the one that "
                "is set here."
            )


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
