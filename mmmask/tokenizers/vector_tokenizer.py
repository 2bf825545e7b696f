"""Vectors to a few tokens and back: an MLP on both sides of a product quantizer (4M's memcodes)."""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.tokenizers.contents import Content, Features
from mmmask.tokenizers.quantizers import Quantized, Quantizer
from mmmask.tokenizers.tokenizer import Tokenizer
from mmmask.tokenizers.vit_vq import BatchSpread


class Requantized(NamedTuple):
    """Vectors after the way through their tokens, with the quantizers' own loss."""

    vectors: Tensor  # (B, C)
    ids: Tensor  # (B, tokens)
    loss: Tensor  # ()


class VectorTokenizer(Tokenizer):
    """Vectors `(B, channels)` to `tokens` ids each, and back, through `depth` hidden layers of `width` on either side.

    Each token has a code book of its own, made like `quantizer`, or all share the one. `content` says what is learned
    (default: directions).
    """

    def __init__(
        self,
        quantizer: Quantizer,
        channels: int,
        tokens: int = 4,
        width: int = 256,
        depth: int = 1,
        shared: bool = False,
        content: Content | None = None,
    ) -> None:
        super().__init__()
        if min(channels, tokens, width, depth) < 1:
            raise UserError(
                "VectorTokenizer: channels, tokens, width and depth must be 1 or more; "
                f"they are {channels}, {tokens}, {width} and {depth}."
            )
        self.channels, self.tokens, self.dim = channels, tokens, quantizer.dim
        self.vocab_size = quantizer.vocab_size
        self.content = content or Features()
        books = [quantizer] if shared else [quantizer, *(deepcopy(quantizer) for _ in range(tokens - 1))]
        self.quantizers = nn.ModuleList(books)
        self.encoder = _mlp(channels, width, depth, tokens * self.dim)
        self.spread = BatchSpread(tokens * self.dim)
        self.decoder = _mlp(tokens * self.dim, width, depth, channels)

    @property
    def length(self) -> int:
        return self.tokens

    def forward(self, vectors: Tensor) -> Requantized:
        parts = self._parts(self.spread(self._features(vectors)))
        found = [Quantized(*book(part)) for book, part in zip(self.quantizers, parts, strict=True)]
        codes, ids = (torch.cat(some, 1) for some in ([f.z_q for f in found], [f.ids for f in found]))
        return Requantized(self._vectors(codes), ids, torch.stack([f.loss for f in found]).mean())

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """Token ids `(B, tokens)`."""
        spread = self.spread
        z = F.batch_norm(self._features(vectors), spread.running_mean, spread.running_var, eps=spread.eps)
        return torch.cat(
            [book.nearest(part) for book, part in zip(self.quantizers, self._parts(z), strict=True)],  # type: ignore[operator]
            1,
        )

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        if ids.shape[1:] != (self.tokens,):
            raise UserError(
                f"VectorTokenizer: ids have the shape {tuple(ids.shape)}, expected (B, {self.tokens}); decode with the "
                "tokenizer that made them."
            )
        parts = ids.split(self.tokens // len(self.quantizers), 1)
        codes = [book.codes(part) for book, part in zip(self.quantizers, parts, strict=True)]  # type: ignore[operator]
        return self.content.finish(self._vectors(torch.cat(codes, 1)))

    def _features(self, vectors: Tensor) -> Tensor:
        if vectors.shape[1:] != (self.channels,):
            raise UserError(
                f"VectorTokenizer: vectors have the shape {tuple(vectors.shape[1:])}, expected ({self.channels},); set "
                "channels to fit them."
            )
        return self.encoder(self.content.planes(vectors, self.channels)).float()

    def _parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """What each code book is for, `(B, n, dim)`."""
        return z.view(-1, self.tokens, self.dim).split(self.tokens // len(self.quantizers), 1)

    def _vectors(self, codes: Tensor) -> Tensor:
        return self.content.output(self.decoder(codes.flatten(1)))


def _mlp(narrow: int, width: int, depth: int, wide: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(narrow, width), nn.GELU()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width, wide))
