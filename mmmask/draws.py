"""Random numbers of samples, each a function of its seed and of what the number is for.

What is drawn for a sample does not depend on its batch, its rank, or on what else was drawn.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# SplitMix64 (Steele, Lea, Flood 2014).
GOLDEN = 0x9E3779B97F4A7C15
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
PROPOSALS = 6  # for a gamma, of which each is taken with 95 % or more


class Draws:
    """Numbers for samples with these seeds `(B,)`."""

    def __init__(self, seeds: NDArray[np.uint64]) -> None:
        self.seeds = np.asarray(seeds).astype(np.uint64)

    def of(self, rows: NDArray[np.int64]) -> Draws:
        """Those of some samples."""
        return Draws(self.seeds[rows])

    def uniform(self, use: tuple[int, ...], *shape: int) -> NDArray[np.float64]:
        """Numbers `(B, *shape)` strictly between 0 and 1; those of two uses have nothing to do with each other."""
        places = np.arange(math.prod(shape), dtype=np.uint64)
        return self._at(self._stream(use)[:, None], places).reshape(len(self.seeds), *shape)

    def _stream(self, use: tuple[int, ...]) -> NDArray[np.uint64]:
        stream = self.seeds
        for number in use:
            stream = _mix(stream + np.uint64((number + 1) * GOLDEN % 2**64))
        return stream

    def _at(self, stream: NDArray[np.uint64], places: NDArray[np.uint64]) -> NDArray[np.float64]:
        bits = _mix(stream + (places + np.uint64(1)) * np.uint64(GOLDEN))
        return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) / 2**52

    def log_dirichlet(self, use: tuple[int, ...], alphas: NDArray[np.float64], times: int = 1) -> NDArray[np.float64]:
        """Logarithms, but for a constant in each, of draws `(B, times, M)` from Dirichlet distributions `(B, M)`;
        -inf where an alpha is 0. In logarithms, for gammas of small alphas are too small for numbers."""
        size, alpha = (times, alphas.shape[1]), np.where(alphas > 0, alphas, 1.0)[:, None]
        boost = np.log(self.uniform((*use, 1), *size)) / alpha  # gamma(a) is gamma(a + 1) u^(1/a)
        found = self._log_gamma((*use, 0), alpha + 1, size) + boost
        return np.where(alphas[:, None] > 0, found, -np.inf)

    def _log_gamma(
        self, use: tuple[int, ...], alpha: NDArray[np.float64], size: tuple[int, int]
    ) -> NDArray[np.float64]:
        """By Marsaglia and Tsang (2000), for alpha of 1 or more: the first proposal that is taken."""
        shape = (len(self.seeds), *size)
        d = (np.broadcast_to(alpha, shape) - 1 / 3).ravel()
        found, left = np.zeros_like(d), np.arange(d.size)
        for number in range(PROPOSALS):
            row, place = np.divmod(left, math.prod(size))
            streams = (self._stream((*use, part, number))[row] for part in range(3))
            u, angle, luck = (self._at(stream, place.astype(np.uint64)) for stream in streams)
            normal = np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * angle)
            v = np.maximum(1 + normal / np.sqrt(9 * d[left]), 1e-12) ** 3
            log_v = np.log(v)
            found[left] = np.log(d[left]) + log_v
            left = left[np.log(luck) >= 0.5 * normal**2 + d[left] * (1 - v + log_v)]
            if not len(left):
                break
        return found.reshape(shape)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * FIRST
    x = (x ^ (x >> np.uint64(27))) * SECOND
    return x ^ (x >> np.uint64(31))
