"""Quantizers: each vector becomes one of finitely many codes.

All share one interface: `forward(z)` to train through, `nearest(z)` and `codes(ids)` to use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.tokenizers.ranks import ranks, sum_over_ranks


class Quantized(NamedTuple):
    """What a quantizer makes of `z`: codes that pass gradients straight to `z`, their ids, its own loss."""

    z_q: Tensor  # (B, N, D)
    ids: Tensor  # (B, N)
    loss: Tensor  # ()


class Quantizer(nn.Module, ABC):
    """Maps vectors of `dim` numbers to `vocab_size` codes; only `forward` in training mode learns."""

    vocab_size: int
    dim: int

    @abstractmethod
    def forward(self, z: Tensor) -> Quantized:
        """Quantize `(B, N, D)`, with gradients; learns in training mode."""

    @abstractmethod
    def nearest(self, z: Tensor) -> Tensor:
        """The ids `(...)` of vectors `(..., D)`."""

    @abstractmethod
    def codes(self, ids: Tensor) -> Tensor:
        """The codes `(..., D)` behind ids `(...)`."""


class AveragingQuantizer(Quantizer):
    """Codes follow the vectors they stand for by running averages.

    A code used less than `dead_below` times the mean starts again at a vector of the current batch. At
    the start all codes are dead: so the first batch places them. `commitment` weighs the pull of vectors
    towards their codes, next to a mean squared error of images in 0..1.
    """

    codebook: Tensor
    sums: Tensor
    share: Tensor

    def __init__(self, vocab_size: int, dim: int, decay: float, commitment: float, dead_below: float) -> None:
        super().__init__()
        name = type(self).__name__
        if vocab_size < 2 or dim < 2:
            raise UserError(f"{name}: vocab_size {vocab_size} and dim {dim} must both be 2 or more.")
        if not 0 <= decay < 1:
            raise UserError(f"{name}: decay is {decay}; give a number from 0 up to, not including, 1.")
        if not 0 <= dead_below < 1:
            raise UserError(f"{name}: dead_below is {dead_below}; give a number from 0 to below 1.")
        self.vocab_size, self.dim = vocab_size, dim
        self.decay, self.commitment, self.dead_below = decay, commitment, dead_below
        self.register_buffer("codebook", self.placed(torch.randn(vocab_size, dim)))  # (V, D)
        self.register_buffer("sums", torch.zeros(vocab_size, dim))  # running: sum of vectors / all vectors
        self.register_buffer("share", torch.zeros(vocab_size))  # running: number of vectors / all vectors

    @abstractmethod
    def placed(self, z: Tensor) -> Tensor:
        """Vectors where codes may lie: all space, or the sphere."""

    @abstractmethod
    def distance(self, z: Tensor, codes: Tensor) -> Tensor:
        """What the pull on vectors makes small, `()`."""

    def forward(self, z: Tensor) -> Quantized:
        with torch.autocast(z.device.type, enabled=False):
            z = self.placed(z.float())
            if self.training:
                self._revive(z.detach())
            ids = self.nearest(z)
            codes = self.codes(ids)
            loss = self.commitment * self.distance(z, codes)
            if self.training:
                self._follow(z.detach().flatten(0, -2), ids.flatten())
            return Quantized(z + (codes - z).detach(), ids, loss)

    def codes(self, ids: Tensor) -> Tensor:
        return self.codebook[ids]

    @torch.no_grad()
    def _revive(self, z: Tensor) -> None:
        """Put dead codes onto random vectors of the batch `(B, N, D)` of all ranks, the same for any number of them."""
        births = self._births(z)
        mean = 1 / self.vocab_size
        dead = self.share < self.dead_below * mean
        dead |= self.share == 0  # never placed
        self.codebook.copy_(torch.where(dead[:, None], births, self.codebook))
        self.sums.copy_(torch.where(dead[:, None], births * mean, self.sums))
        self.share.copy_(torch.where(dead, mean, self.share))

    def _births(self, z: Tensor) -> Tensor:
        """As many vectors `(V, D)` as codes, drawn from all ranks by the generator of the first one.

        Samples are dealt out in turn: s lies on rank s % world. Rank 0 has the most; where a rank has one less, it
        gives its last sample for the one it lacks.
        """
        (batch, tokens, _), (rank, world) = z.shape, ranks()
        count = world * batch * tokens
        if count >= self.vocab_size:
            picks = torch.randperm(count, device=z.device)[: self.vocab_size]
        else:
            picks = torch.randint(count, (self.vocab_size,), device=z.device)
        if world == 1:
            return z.flatten(0, 1)[picks]
        dist.broadcast(picks, src=0)
        sample, token = picks // tokens, picks % tokens
        mine = z[(sample // world).clamp(max=batch - 1), token]
        return sum_over_ranks(mine * (sample % world == rank)[:, None])

    @torch.no_grad()
    def _follow(self, vectors: Tensor, ids: Tensor) -> None:
        """Move each code towards the mean of the vectors it stands for, over all ranks."""
        batch = vectors.new_zeros(self.vocab_size, self.dim + 1)  # sums and, last, counts
        batch.index_add_(0, ids, F.pad(vectors, (0, 1), value=1.0))
        batch = sum_over_ranks(batch)
        batch /= batch[:, -1].sum()
        self.sums.lerp_(batch[:, :-1], 1 - self.decay)
        self.share.lerp_(batch[:, -1], 1 - self.decay)
        self.codebook.copy_(self.placed(self.sums / self.share.clamp(min=1e-12)[:, None]))


class CosineQuantizer(AveragingQuantizer):
    """Vectors and codes on the unit sphere (ViT-VQGAN)."""

    def __init__(
        self,
        vocab_size: int,
        dim: int = 16,
        decay: float = 0.95,
        commitment: float = 0.005,
        dead_below: float = 0.03,
    ) -> None:
        super().__init__(vocab_size, dim, decay, commitment, dead_below)

    def placed(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1)

    def distance(self, z: Tensor, codes: Tensor) -> Tensor:
        return (z - codes).square().sum(-1).mean()

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):  # close codes differ in the last digits
            return (z.float() @ self.codebook.T).argmax(-1)


class EuclideanQuantizer(AveragingQuantizer):
    """The nearest code in all space (VQ-VAE)."""

    def __init__(
        self,
        vocab_size: int,
        dim: int = 256,
        decay: float = 0.99,
        commitment: float = 0.25,
        dead_below: float = 0.03,
    ) -> None:
        super().__init__(vocab_size, dim, decay, commitment, dead_below)

    def placed(self, z: Tensor) -> Tensor:
        return z

    def distance(self, z: Tensor, codes: Tensor) -> Tensor:
        return F.mse_loss(z, codes)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return (self.codebook.square().sum(-1) - 2 * z.float() @ self.codebook.T).argmin(-1)


class FiniteScalarQuantizer(Quantizer):
    """Each number is rounded to one of its levels (FSQ, Mentzer et al. 2023); nothing is learned here."""

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise UserError(f"FiniteScalarQuantizer: levels are {list(levels)}; give at least one, each 2 or more.")
        steps = torch.tensor(list(levels))
        self.dim, self.vocab_size = len(steps), int(steps.prod())
        self.register_buffer("levels", steps, persistent=False)  # (D,)
        self.register_buffer("basis", steps.cumprod(0) // steps, persistent=False)  # (D,): 1, L0, L0 L1, ...

    def forward(self, z: Tensor) -> Quantized:
        with torch.autocast(z.device.type, enabled=False):
            bounded = self.bound(z.float())
            codes = (bounded + (bounded.round() - bounded).detach()) / (self.levels // 2)
            return Quantized(codes, self.nearest(z), codes.new_zeros(()))

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            digits = self.bound(z.float()).round().long() + self.levels // 2
            return (digits * self.basis).sum(-1)

    def codes(self, ids: Tensor) -> Tensor:
        half = self.levels // 2
        digits = ids[..., None] // self.basis % self.levels
        return (digits - half) / half

    def bound(self, z: Tensor) -> Tensor:
        """Squash into the range that rounds to L integers; for even L it reaches one further below 0."""
        half_range = (self.levels - 1) * (1 - 1e-3) / 2
        offset = (1 - self.levels % 2) / 2
        shift = (offset / half_range).tan()  # tan as published, though only atanh would keep 0 at 0
        return (z + shift).tanh() * half_range - offset
