"""Lower inertia than from any start: add centres where rows are far, take away those missed least, and again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.lloyd import Lloyd, Partition
from mmmask.discovery.seeding import Generator, far_apart, trials

SHARE = 0.2  # of the clusters, in the first breath; fewer once a breath brings nothing
PASSES, TOLERANCE = 20, 1e-3  # of k-means within a breath; what it finds is finished afterwards
GAIN = 1e-6  # of the inertia: a breath that brings less brought nothing


def breathe(lloyd: Lloyd, found: Partition, rows: NDArray[np.float32], generator: Generator) -> Partition:
    """Breathing k-means (Fritzke 2020) of a sample in memory, `rows` `(n, D)`. The clusters of classes are never
    taken away; new centres are drawn as in seeding, where Fritzke puts them beside those with the largest error."""
    k, free = len(found.centres), np.flatnonzero(lloyd.free)
    pool = rows[free]
    size = min(max(5, round(SHARE * k)), k - lloyd.classes)
    while size > 0:
        more = pool[far_apart(pool, found.centres, size, generator, trials(k))]
        wide = lloyd.run(np.concatenate([found.centres, more]), PASSES, TOLERANCE, fill=False).centres
        narrow = np.delete(wide, missed_least(lloyd, wide, pool, size), axis=0)
        breath = lloyd.run(narrow, PASSES, TOLERANCE)
        if breath.inertia < found.inertia * (1 - GAIN):
            found = breath
        else:
            size -= max(1, size // 4)
    return found


def missed_least(lloyd: Lloyd, centres: NDArray[np.float32], pool: NDArray[np.float32], count: int) -> list[int]:
    """The new clusters whose rows are about as near to another centre; not two neighbours while others are left, for
    the second is missed once the first is gone."""
    lloyd.search.put(centres)
    distances, numbers = lloyd.search.of(pool, 2)
    losses = np.bincount(numbers[:, 0], distances[:, 1] - distances[:, 0], minlength=len(centres))
    order = lloyd.classes + np.argsort(losses[lloyd.classes :], kind="stable")
    neighbours = lloyd.search.of(centres, 2)[1]
    gone: list[int] = []
    spared: set[int] = set()
    for cluster in order.tolist():
        if cluster not in spared and len(gone) < count:
            gone.append(cluster)
            spared.update(neighbours[cluster].tolist())
    rest = [cluster for cluster in order.tolist() if cluster not in gone]
    return gone + rest[: count - len(gone)]
