"""How many tokens of each modality are known, and how many asked: mixtures of Dirichlet distributions (4M)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmmask.draws import Draws

Counts = NDArray[np.int64]
Weights = NDArray[np.float64]
TRIES = 100


def budgets(total: Counts, alphas: Weights, least: Counts, most: Counts, draws: Draws, use: int = 0) -> Counts:
    """Counts `(B, M)` that sum up to `total` `(B,)` at most: floor(p * total) for p from Dir(alpha), what is left
    dealt out by the largest of further draws, never above `most` `(B, M)`; drawn again while below `least` `(M,)`.

    `alphas` `(B, M)`; where it is 0, a modality gets nothing but its least.
    """
    least = np.minimum(least, most)
    found, short = np.zeros_like(most), np.arange(len(total))
    for number in range(TRIES):
        found[short] = _drawn(total[short], alphas[short], most[short], draws.of(short), (use, number))
        short = np.nonzero((found < least).any(1))[0]
        if not len(short):
            return found
    return _lifted(found, least, total)


def _drawn(total: Counts, alphas: Weights, most: Counts, draws: Draws, use: tuple[int, int]) -> Counts:
    logs = draws.log_dirichlet(use, alphas, 1 + alphas.shape[1])  # what is left are fewer than there are modalities
    highest = logs[:, 0].max(1, keepdims=True)
    weights = np.exp(logs[:, 0] - np.where(np.isfinite(highest), highest, 0))
    share = weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)
    found = np.floor(share * total[:, None]).astype(np.int64)
    left = np.where(np.isfinite(highest[:, 0]), total - found.sum(1), 0)
    more = logs[:, 1:].argmax(2)  # (B, M)
    for number in range(more.shape[1]):
        found[np.arange(len(found)), more[:, number]] += number < left
    return np.minimum(found, most)


def _lifted(found: Counts, least: Counts, total: Counts) -> Counts:
    """What luck did not bring: the least for all, taken from those that have most to give."""
    found = np.maximum(found, least)
    for row in np.nonzero(found.sum(1) > total)[0]:
        while found[row].sum() > total[row] and (found[row] > least[row]).any():
            found[row, np.argmax(found[row] - least[row])] -= 1
    return found
