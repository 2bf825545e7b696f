"""Lloyd's iteration in which labelled rows stay with their class: exact sums, block by block, over several ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from mmmask.discovery.nearest import NearestCentres
from mmmask.discovery.ranks import Ranks
from mmmask.discovery.rows import Rows, to_unit
from mmmask.errors import UserError

ROUNDING = 2e-6  # of the largest squared length: what float32 distances may be wrong by
SAME = 1e-12  # of its squared length: a row nearer than this to its centre is the centre


@dataclass(frozen=True)
class Partition:
    """Centres `(K, D)`, the labels `(N,)` of this rank's rows, inertia over all rows, passes over the rows."""

    centres: NDArray[np.float32]
    labels: NDArray[np.int64]
    inertia: float
    passes: int


class Lloyd:
    """Clusters `rows`, of which some are `pinned` `(N,)` to a cluster (-1: not); `search` finds nearest centres.

    A row is searched again once the centres have moved as far as its second-nearest centre was farther than its own
    (after Hamerly 2010), and a cluster's sum changes by the rows that join and leave it: late passes cost little.
    Sums are float64 and counts int64: float32 counters stop at 2^24.
    """

    def __init__(
        self, rows: Rows, pinned: NDArray[np.int64], search: NearestCentres, ranks: Ranks, unit: bool = False
    ) -> None:
        self.rows, self.pinned, self.search, self.ranks = rows, pinned, search, ranks
        self.unit = unit  # rows have length 1, and so have centres
        self.square = float(ranks.sum(np.array(ranks.checked(rows.sum_of_squares))))
        self.free = pinned < 0
        self.classes = int(max(ranks.gather(int(pinned.max(initial=-1))))) + 1
        self.whole = True  # of a sample, too few rows to fill all clusters say nothing of the rest

    def run(self, centres: NDArray[np.float32], iterations: int, tolerance: float, fill: bool = True) -> Partition:
        """From centres `(K, D)` until no label changes, or inertia falls by less than `tolerance` of itself; `fill`
        clusters that have no row from the farthest rows."""
        self._begin(len(centres))
        inertia = np.inf
        passes = 0
        while passes < iterations:
            passes += 1
            changed = self._assign(centres)
            sums, counts = self.ranks.sum(self.sums), self.ranks.sum(self.counts)
            before, previous, centres = centres, inertia, self._means(sums, counts, centres)
            inertia = self._inertia(sums, counts, centres)
            # a class may lack rows, in a sample; its centre waits
            empty = self.classes + np.flatnonzero(counts[self.classes :] == 0)
            if len(empty) and fill and len(rows := self._farthest(before, len(empty), int((counts > 0).sum()))):
                centres[empty] = rows
            elif not changed or previous - inertia < tolerance * inertia:
                break
            self._loosen(np.sqrt(((centres.astype(np.float64) - before) ** 2).sum(1)))
        return Partition(centres, self.labels, inertia, passes)

    def _begin(self, k: int) -> None:
        """Pinned rows enter the sums here, once."""
        self.labels = np.full(len(self.rows), -1)
        self.distances = np.zeros(len(self.rows), dtype=np.float32)  # when last searched
        self.margins = np.zeros(len(self.rows))  # what centres may move before a label changes
        self.sums, self.counts = np.zeros((k, self.rows.dim)), np.zeros(k, dtype=np.int64)
        for places, block in self.rows.blocks(~self.free):
            self._move(places, block, self.pinned[places])

    def _assign(self, centres: NDArray[np.float32]) -> int:
        """Move the free rows to their nearest centres; how many moved, of all ranks."""
        self.search.put(centres)
        largest = (centres.astype(np.float64) ** 2).sum(1).max()
        changed = 0
        for places, block in self.rows.blocks(self.free & (self.margins <= 0)):
            distances, numbers = self.search.of(block, 2)
            error = ROUNDING * (np.einsum("nd,nd->n", block, block) + largest)
            own, second = np.maximum(distances.T.astype(np.float64), 0)
            self.margins[places] = np.sqrt(np.maximum(second - error, 0)) - np.sqrt(own + error)
            self.distances[places] = own
            changed += self._move(places, block, numbers[:, 0])
        return int(self.ranks.sum(np.array(changed)))

    def _loosen(self, moves: NDArray[np.float64]) -> None:
        """Each row's margin falls by what its own centre has moved `(K,)`, and what another may have."""
        first, second = np.argsort(-moves, kind="stable")[[0, -1 if len(moves) == 1 else 1]]
        others = np.full(len(moves), moves[first])
        others[first] = moves[second]
        self.margins -= (moves + others)[self.labels]

    def _move(self, places: NDArray[np.int64], block: NDArray[np.float32], to: NDArray[np.int64]) -> int:
        """Give rows their labels, and change sums and counts by what joins and what leaves."""
        moving = np.flatnonzero(self.labels[places] != to)
        if not len(moving):
            return 0
        places, block, to, k = places[moving], block[moving], to[moving], len(self.counts)
        left = self.labels[places] >= 0
        whence = self.labels[places][left]
        self.sums += summed(block, to, k)
        self.counts += np.bincount(to, minlength=k)
        if len(whence):
            self.sums -= summed(block[left], whence, k)
            self.counts -= np.bincount(whence, minlength=k)
        self.labels[places] = to
        return len(moving)

    def _means(
        self, sums: NDArray[np.float64], counts: NDArray[np.int64], centres: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Of the members; an empty cluster keeps its centre."""
        means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        means = to_unit(means) if self.unit else means
        return np.where((counts > 0)[:, None], means, centres)

    def _inertia(self, sums: NDArray[np.float64], counts: NDArray[np.int64], centres: NDArray[np.float32]) -> float:
        """Sum of squared distances to the centres, from the sums alone: sum |x|^2 - 2 S c + n |c|^2."""
        wide = centres.astype(np.float64)
        return max(0.0, float(self.square - 2 * (sums * wide).sum() + counts @ (wide**2).sum(1)))

    def _farthest(self, centres: NDArray[np.float32], wanted: int, used: int) -> NDArray[np.float32]:
        """The free rows `(wanted, D)` farthest from their centres, of all ranks: seeds of clusters that got no row; of
        a sample, none where each row is a centre."""
        places = np.flatnonzero(self.free)
        if len(places) > wanted:
            places = np.sort(places[np.argpartition(-self.distances[places], wanted)[:wanted]])
        rows = self.rows.take(places)
        gaps = ((rows.astype(np.float64) - centres[self.labels[places]]) ** 2).sum(1)
        apart = gaps > SAME * (rows.astype(np.float64) ** 2).sum(1)
        gathered = self.ranks.gather((gaps[apart], rows[apart]))
        distances, rows = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
        if not len(distances) and not self.whole:
            return rows
        if not len(distances):
            raise UserError(
                f"K={len(centres)} clusters were asked for, but the rows differ in only {used} places: lower K"
            )
        order = np.argsort(-distances, kind="stable")[:wanted]
        return rows[np.resize(order, wanted)]


def summed(block: NDArray[np.float32], clusters: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Sums `(k, D)` of the rows `(n, D)` of each cluster `(n,)`."""
    ones = np.ones(len(block))
    members = scipy.sparse.csr_matrix((ones, (clusters, np.arange(len(block)))), shape=(k, len(block)))
    return members @ block.astype(np.float64)
