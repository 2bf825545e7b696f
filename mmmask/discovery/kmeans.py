"""k-means in which labelled rows stay with their class: `KMeans(k).fit(features, labels)`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmmask.discovery.lloyd import Lloyd
from mmmask.discovery.nearest import GPU, NearestCentres
from mmmask.discovery.ranks import Ranks
from mmmask.discovery.rows import Features, Rows
from mmmask.discovery.starts import best_start
from mmmask.errors import UserError

UNLABELLED = -1


@dataclass(frozen=True)
class Clusters:
    """Clusters of rows. Those of known classes come first, in the order of `classes`; the others are new.

    `centres` (K, D), `labels` (N,) of this rank's rows, `inertia` (sum of squared distances to the own centre), the
    `passes` over all rows, the `seeding` that won.
    """

    centres: NDArray[np.float32]
    labels: NDArray[np.int64]
    inertia: float
    classes: NDArray[np.int64]
    passes: int
    seeding: str
    spherical: bool

    def assign(self, features: Features, gpu: GPU = False) -> NDArray[np.int64]:
        """The nearest clusters `(M,)` of further rows `(M, D)`; the centres stay."""
        rows = Rows(features, self.spherical)
        if rows.dim != self.centres.shape[1]:
            raise UserError(f"{rows.name}: rows have {rows.dim} numbers, the clusters' {self.centres.shape[1]}")
        rows.sum_of_squares()
        search = NearestCentres(rows.dim, gpu)
        search.put(self.centres)
        return np.concatenate([search.of(block)[1][:, 0] for _, block in rows.blocks()])


@dataclass(frozen=True)
class KMeans:
    """`k` clusters. With labels, rows of a class are one cluster (its rows enter by label); without, plain k-means.

    `seedings`: of `SEEDINGS`, each begun `restarts` times (default: `means` and `matched`, or `plain` without labels),
    improved by `breathing`; the start of lowest inertia is finished on all rows. `sample`: how many rows starts
    compete on (default: 50,000, or 64 a cluster). `spherical`: by angle. `gpu`: see `NearestCentres`. `block`: rows
    read at a time. With `torch.distributed`, each rank gives its part of the rows, in the order of the ranks.
    """

    k: int
    seedings: Sequence[str] | None = None
    restarts: int = 1
    breathing: bool = True
    spherical: bool = False
    gpu: GPU = False
    seed: int = 0
    sample: int | None = None
    iterations: int = 300
    tolerance: float = 1e-6
    block: int | None = None

    def fit(
        self, features: Features, labels: ArrayLike | None = None, start: NDArray[np.float32] | None = None
    ) -> Clusters:
        """Cluster rows `(N, D)` with labels `(N,)`, -1 where there is none; from `start` `(K, D)` if given."""
        ranks = Ranks()
        rows = ranks.checked(lambda: Rows(features, self.spherical, self.block))
        classes, pinned = known_classes(labels, len(rows), ranks)
        self._check_k(len(classes), int(ranks.sum(np.array((pinned < 0).sum()))))
        search = ranks.checked(lambda: NearestCentres(rows.dim, self.gpu))
        lloyd = Lloyd(rows, pinned, search, ranks, self.spherical)
        name, centres = ("given", np.array(start, dtype=np.float32)) if start is not None else best_start(self, lloyd)
        if centres.shape != (self.k, rows.dim):
            raise UserError(f"start: expected centres of shape {(self.k, rows.dim)}, found {centres.shape}")
        found = lloyd.run(centres, self.iterations, self.tolerance)
        return Clusters(found.centres, found.labels, found.inertia, classes, found.passes, name, self.spherical)

    def _check_k(self, classes: int, unlabelled: int) -> None:
        """Each class is a cluster, and each other cluster needs an unlabelled row."""
        least, most = max(1, classes), classes + unlabelled
        if least <= self.k <= most:
            return
        known = f"{classes} classes are labelled"
        rows = f"there are only {unlabelled} rows" if not classes else f"{known} and {unlabelled} rows are not"
        few = known if self.k < classes else rows
        raise UserError(f"k={self.k} clusters were asked for, but {few}: choose a k from {least} to {most}")


def known_classes(labels: ArrayLike | None, count: int, ranks: Ranks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labelled classes of all ranks, ascending, and the number of its class of each row (-1: unlabelled)."""
    if labels is None:
        return np.zeros(0, dtype=np.int64), np.full(count, UNLABELLED)
    given = ranks.checked(lambda: _one_a_row(labels, count))
    labelled = given != UNLABELLED
    classes = np.unique(np.concatenate(ranks.gather(np.unique(given[labelled]).astype(np.int64))))
    unlabelled = int(ranks.sum(np.array((~labelled).sum())))
    if not len(classes) or not unlabelled:
        which, so = ("none", "leave labels out") if unlabelled else ("all", "nothing is left to discover")
        raise UserError(f"{which} of the rows are labelled ({UNLABELLED}: unlabelled): {so}")
    return classes, np.where(labelled, np.searchsorted(classes, given), UNLABELLED)


def _one_a_row(labels: ArrayLike, count: int) -> NDArray[np.int64]:
    given = np.asarray(labels)
    if given.shape != (count,) or given.dtype.kind not in "iu":
        raise UserError(
            f"expected a whole number as the label of each of {count} rows ({UNLABELLED}: unlabelled), found shape "
            f"{given.shape} of {given.dtype}"
        )
    return given
