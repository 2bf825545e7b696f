"""Clusters of samples in all their looks side by side: where prototypes of each look begin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.kmeans import UNLABELLED, KMeans
from mmmask.discovery.lloyd import summed
from mmmask.discovery.ranks import Ranks
from mmmask.discovery.space import Parts
from mmmask.discovery.trust import MOST, some_rows, trusted


@dataclass(frozen=True)
class LookClusters:
    """Sums `(M, K, D)` of each look's rows in each cluster, how much looks count, and how many classes have labels."""

    centres: NDArray[np.float64]
    weights: dict[str, float]
    classes: int


def look_clusters(parts: Parts, labels: NDArray[np.int64], k: int, weigh: bool = False, seed: int = 0) -> LookClusters:
    """Cluster samples by directions `(N, D)` in each look, 0 where one is absent, with labels `(N,)` (-1: none), whose
    classes come first. With `weigh`, looks count as they group the labelled samples; else the same.

    With `torch.distributed`, each rank gives its part of the samples.
    """
    ranks = Ranks()
    weights = dict.fromkeys(parts, 1 / len(parts))
    if weigh:
        few = some_rows(labels, MOST // ranks.count, seed)
        shared = ranks.gather(({name: rows[few] for name, rows in parts.items()}, labels[few]))
        together = {name: np.concatenate([some[name] for some, _ in shared]) for name in parts}
        given = np.concatenate([some for _, some in shared])
        if (given != UNLABELLED).any():  # else k-means says what is wrong
            weights, _ = trusted(together, given, k, seed)
    rows = np.concatenate([part * np.float32(weights[name] ** 0.5) for name, part in parts.items()], axis=1)
    found = KMeans(k, spherical=True, seed=seed).fit(rows, labels)
    centres = np.stack([ranks.sum(summed(part, found.labels, k)) for part in parts.values()])
    return LookClusters(centres, weights, len(found.classes))
