"""Baselines for small sets: Ward's clustering, alone or after rows were drawn to their neighbours as in CMS."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from mmmask.discovery.kmeans import known_classes
from mmmask.discovery.nearest import NearestCentres
from mmmask.discovery.ranks import Ranks
from mmmask.discovery.rows import Features, Rows
from mmmask.errors import UserError
from mmmask.metrics.matching import agreement

MOST = 15_000  # rows: Ward keeps the distance of each pair, 0.9 GB for so many


def ward(features: Features, k: int) -> NDArray[np.int64]:
    """Clusters `(N,)`, 0 to `k` - 1, of rows `(N, D)`: what raises inertia least is joined, and so on."""
    rows = _few(features)
    if not 1 <= k <= len(rows):
        raise UserError(f"k={k} clusters were asked for, but there are {len(rows)} rows: choose k between 1 and that")
    rows.sum_of_squares()
    return fcluster(linkage(rows.take(np.arange(len(rows))), "ward"), k, "maxclust").astype(np.int64) - 1


def drawn_to_neighbours(rows: NDArray[np.float32], neighbours: int = 8, share: float = 0.5) -> NDArray[np.float32]:
    """One step of CMS's mean shift of rows `(N, D)` of length 1: a `share` of each becomes the mean of its nearest."""
    search = NearestCentres(rows.shape[1])
    search.put(rows)
    near = search.of(rows, neighbours + 1)[1]
    others = near != np.arange(len(rows))[:, None]
    others[others.all(1), -1] = False  # a row with twins may not be among its own nearest
    mean = rows[near[others].reshape(len(rows), neighbours)].mean(1)
    shifted = (1 - share) * rows + share * mean
    return shifted / np.maximum(np.linalg.norm(shifted, axis=1, keepdims=True), 1e-12)


def mean_shift(
    features: Features, labels: ArrayLike, k: int, neighbours: int = 8, share: float = 0.5
) -> tuple[NDArray[np.int64], int]:
    """Clusters `(N,)` and the steps they took: Ward after each step, until the accuracy on the labelled rows has not
    risen for two (CMS, Choi et al. 2024). Labels `(N,)`, -1 where there is none, decide nothing else."""
    few = _few(features, unit=True)
    few.sum_of_squares()
    known_classes(labels, len(few), Ranks(alone=True))
    if len(few) <= neighbours:
        raise UserError(f"{neighbours} neighbours were asked for, but there are {len(few)} rows: ask for fewer")
    given = np.asarray(labels)
    labelled, rows = given >= 0, few.take(np.arange(len(few)))
    best, found, taken, step = -1.0, np.zeros(0, dtype=np.int64), 0, 0
    while step < taken + 2 or best < 0:
        step += 1
        rows = drawn_to_neighbours(rows, neighbours, share)
        clusters = ward(rows, k)
        accuracy = agreement(clusters[labelled], given[labelled])["all"]
        if accuracy > best:
            best, found, taken = accuracy, clusters, step
    return found, taken


def _few(features: Features, unit: bool = False) -> Rows:
    rows = Rows(features, unit)
    if len(rows) > MOST:
        raise UserError(
            f"{rows.name}: Ward's clustering takes at most {MOST} rows, found {len(rows)}: use KMeans, or Ward on "
            "the centres that KMeans finds"
        )
    return rows
