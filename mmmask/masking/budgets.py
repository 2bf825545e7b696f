"""How many tokens of each modality are known, and how many asked: mixtures of Dirichlet distributions (4M)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Weights = NDArray[np.float64]


def budgets(
    total: Counts, alphas: Weights, least: Counts, most: Counts, rng: np.random.Generator, tries: int = 100
) -> Counts:
    """Counts `(B, M)` that sum up to `total` `(B,)` at most: floor(p * total) for p from Dir(alpha), what is left
    dealt out by the largest of further draws, never above `most` `(B, M)`; drawn again while below `least` `(M,)`.

    `alphas` `(B, M)`; where it is 0, a modality gets nothing but its least.
    """
    found = _drawn(total, alphas, most, rng)
    least = np.minimum(least, most)
    for _ in range(tries):
        if not len(short := np.nonzero((found < least).any(1))[0]):
            return found
        found[short] = _drawn(total[short], alphas[short], most[short], rng)
    return _lifted(found, least, total)


def _drawn(total: Counts, alphas: Weights, most: Counts, rng: np.random.Generator) -> Counts:
    found = np.floor(_dirichlet(alphas, rng) * total[:, None]).astype(np.int64)
    left = np.where((alphas > 0).any(1), total - found.sum(1), 0)
    rows = np.repeat(np.arange(len(total)), left)
    np.add.at(found, (rows, _dirichlet(alphas[rows], rng).argmax(1)), 1)
    return np.minimum(found, most)


def _dirichlet(alphas: Weights, rng: np.random.Generator) -> Weights:
    """One draw for each row. In logarithms, for gammas of small alphas are too small for numbers."""
    alpha = np.where(alphas > 0, alphas, 1.0)
    gammas = np.log(rng.standard_gamma(alpha + 1)) + np.log(rng.random(alpha.shape)) / alpha
    gammas = np.where(alphas > 0, gammas, -np.inf)
    highest = gammas.max(1, keepdims=True)
    weights = np.exp(gammas - np.where(np.isfinite(highest), highest, 0))
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)


def _lifted(found: Counts, least: Counts, total: Counts) -> Counts:
    """What luck did not bring: the least for all, taken from those that have most to give."""
    found = np.maximum(found, least)
    for row in np.nonzero(found.sum(1) > total)[0]:
        while found[row].sum() > total[row] and (found[row] > least[row]).any():
            found[row, np.argmax(found[row] - least[row])] -= 1
    return found
