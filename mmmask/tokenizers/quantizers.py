"""Quantizers: each vector becomes the nearest of finitely many codes.

All share one interface: `forward(z) -> Quantized` for training, `codes(ids)` for the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError


class Quantized(NamedTuple):
    """What a quantizer makes of `z`: the codes with gradients to `z`, their ids, its own loss."""

    z_q: Tensor  # (B, N, D)
    ids: Tensor  # (B, N)
    loss: Tensor  # ()


class Quantizer(nn.Module):
    """Maps vectors of `dim` numbers to one of `vocab_size` codes."""

    vocab_size: int
    dim: int

    def forward(self, z: Tensor) -> Quantized:
        raise NotImplementedError

    def codes(self, ids: Tensor) -> Tensor:
        """The codes `(..., D)` behind `ids` `(...)`."""
        raise NotImplementedError


class CosineQuantizer(Quantizer):
    """Codes and vectors on the unit sphere (ViT-VQGAN), codes follow their vectors (exponential averages).

    A code whose share of use sinks below `dead_below` of the mean share starts again at a vector of
    the current batch. All codes are dead at the start, so the first batch sets them all.
    """

    codebook: Tensor
    sums: Tensor
    share: Tensor

    def __init__(
        self,
        vocab_size: int,
        dim: int = 32,
        decay: float = 0.99,
        commitment: float = 1.0,
        dead_below: float = 0.05,
    ) -> None:
        super().__init__()
        if vocab_size < 2 or dim < 2:
            raise UserError(f"CosineQuantizer: vocab_size {vocab_size} and dim {dim} must both be 2 or more.")
        if not 0 <= decay < 1:
            raise UserError(f"CosineQuantizer: decay is {decay}; give a number from 0 up to, not including, 1.")
        self.vocab_size, self.dim = vocab_size, dim
        self.decay, self.commitment, self.dead_below = decay, commitment, dead_below
        self.register_buffer("codebook", F.normalize(torch.randn(vocab_size, dim), dim=-1))  # (V, D)
        self.register_buffer("sums", torch.zeros(vocab_size, dim))  # running mean of sum of vectors per code
        self.register_buffer("share", torch.zeros(vocab_size))  # running share of vectors per code

    def forward(self, z: Tensor) -> Quantized:
        with torch.autocast(z.device.type, enabled=False):  # nearest codes need full precision
            z = F.normalize(z.float(), dim=-1)
            vectors = z.detach().flatten(0, -2)
            if self.training:
                self._revive(vectors)
            nearest = (vectors @ self.codebook.T).argmax(-1)
            codes = self.codebook[nearest].view_as(z)
            if self.training:
                self._follow(vectors, nearest)
            loss = self.commitment * (z - codes).square().sum(-1).mean()
            return Quantized(z + (codes - z).detach(), nearest.view(z.shape[:-1]), loss)

    def codes(self, ids: Tensor) -> Tensor:
        return self.codebook[ids]

    @torch.no_grad()
    def _revive(self, vectors: Tensor) -> None:
        """Put dead codes onto random vectors of the batch, as many from each rank."""
        picks = torch.randint(len(vectors), (self.vocab_size,), device=vectors.device)
        if self.vocab_size <= len(vectors):
            picks = torch.randperm(len(vectors), device=vectors.device)[: self.vocab_size]
        births = vectors[picks]
        if _distributed():
            turn = torch.arange(self.vocab_size, device=vectors.device) % dist.get_world_size()
            births = _sum_over_ranks(births * (turn == dist.get_rank())[:, None])
        mean = 1 / self.vocab_size
        dead = self.share < self.dead_below * mean
        self.codebook.copy_(torch.where(dead[:, None], births, self.codebook))
        self.sums.copy_(torch.where(dead[:, None], births * mean, self.sums))
        self.share.copy_(torch.where(dead, mean, self.share))

    @torch.no_grad()
    def _follow(self, vectors: Tensor, ids: Tensor) -> None:
        """Move each code towards the mean direction of the vectors it stands for."""
        batch = torch.zeros(self.vocab_size, self.dim + 1, device=vectors.device)  # sums and, last, counts
        batch.index_add_(0, ids, F.pad(vectors, (0, 1), value=1.0))
        batch = _sum_over_ranks(batch)
        batch /= batch[:, -1].sum()
        self.sums.lerp_(batch[:, :-1], 1 - self.decay)
        self.share.lerp_(batch[:, -1], 1 - self.decay)
        self.codebook.copy_(F.normalize(self.sums, dim=-1))


class FiniteScalarQuantizer(Quantizer):
    """Each of a few numbers is rounded to one of its levels (FSQ, Mentzer et al. 2023); nothing is learned."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise UserError(f"FiniteScalarQuantizer: levels {list(levels)} must all be 2 or more, and at least one.")
        steps = torch.tensor(list(levels))
        self.dim, self.vocab_size = len(steps), int(steps.prod())
        self.register_buffer("levels", steps, persistent=False)  # (D,)
        self.register_buffer("basis", steps.cumprod(0) // steps, persistent=False)  # (D,) 1, L0, L0 L1, ...

    def forward(self, z: Tensor) -> Quantized:
        with torch.autocast(z.device.type, enabled=False):
            bounded = self._bound(z.float())
            rounded = bounded.round()
            half = self.levels // 2
            ids = ((rounded.detach().long() + half) * self.basis).sum(-1)
            z_q = (bounded + (rounded - bounded).detach()) / half
            return Quantized(z_q, ids, z_q.new_zeros(()))

    def codes(self, ids: Tensor) -> Tensor:
        half = self.levels // 2
        digits = ids[..., None] // self.basis % self.levels
        return (digits - half) / half

    def _bound(self, z: Tensor) -> Tensor:
        """Squash into the range that rounds to L integers; for even L it reaches one further below 0."""
        half_range = (self.levels - 1) * (1 - 1e-3) / 2
        offset = (1 - self.levels % 2) / 2
        shift = (offset / half_range).tan()  # as published; atanh would keep 0 at 0
        return (z + shift).tanh() * half_range - offset


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _sum_over_ranks(x: Tensor) -> Tensor:
    if _distributed():
        dist.all_reduce(x)
    return x
