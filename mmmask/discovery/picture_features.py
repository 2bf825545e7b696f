"""Pictures as vectors without any network: histograms of gradients, and the directions in which they differ most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mmmask.discovery.rows import to_unit

BINS, CELL = 9, 8
SIDE = 64  # pixels that pictures are scaled to
MOST = 10_000  # pictures that directions are learned from
BLOCK = 4096


def hog(pictures: Tensor) -> Tensor:
    """Features `(N, D)` of pictures `(N, C, H, W)` in 0..1 (Dalal, Triggs 2005): of cells of 8x8 pixels, each 2x2 of
    them made equally long."""
    grey = F.pad(pictures.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    dx, dy = grey[:, 0, 1:-1, 2:] - grey[:, 0, 1:-1, :-2], grey[:, 0, 2:, 1:-1] - grey[:, 0, :-2, 1:-1]
    angle = torch.atan2(dy, dx).remainder(torch.pi) / torch.pi * BINS
    low = angle.floor()
    share, steepness = angle - low, (dx.square() + dy.square()).sqrt()
    votes = F.one_hot(low.long() % BINS, BINS) * ((1 - share) * steepness)[..., None]
    votes = votes + F.one_hot((low.long() + 1) % BINS, BINS) * (share * steepness)[..., None]
    cells = F.avg_pool2d(votes.permute(0, 3, 1, 2), CELL)  # (N, 9, H/8, W/8)
    blocks = F.unfold(cells, 2)  # (N, 36, blocks)
    return F.normalize(blocks, dim=1).flatten(1)


@dataclass(frozen=True)
class PictureFeatures:
    """The mean `(H,)` of histograms and the directions `(H, dim)` in which they differ most."""

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]

    @classmethod
    def fit(cls, histograms: NDArray[np.float16], dim: int = 64, seed: int = 0) -> PictureFeatures:
        """Learned from rows `(N, H)`; those of length 0 are of samples without a picture."""
        there = np.flatnonzero(histograms.any(axis=1))
        if len(there) > MOST:
            there = np.sort(np.random.default_rng(seed).choice(there, MOST, replace=False))
        rows = histograms[there].astype(np.float32)
        mean = rows.mean(0) if len(rows) else np.zeros(histograms.shape[1], dtype=np.float32)
        centred = (rows - mean).astype(np.float64)
        vectors = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :dim]
        signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
        return cls(mean, np.ascontiguousarray(vectors * signs, dtype=np.float32))

    def __call__(self, histograms: NDArray[np.float16]) -> NDArray[np.float32]:
        """Rows `(N, dim)` of length 1; 0 where there is no picture."""
        found = np.zeros((len(histograms), self.basis.shape[1]), dtype=np.float32)
        for start in range(0, len(found), BLOCK):
            block = histograms[start : start + BLOCK].astype(np.float32)
            found[start : start + BLOCK] = ((block - self.mean) @ self.basis) * block.any(axis=1, keepdims=True)
        return to_unit(found)
