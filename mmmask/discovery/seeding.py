"""Where k-means begins: centres drawn far apart, with a running minimum of distances and BLAS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


class Generator(Protocol):
    """What of NumPy's generators is needed here."""

    def random(self, size: int) -> NDArray[np.float64]:
        """Numbers `(size,)` in [0, 1)."""


@dataclass(frozen=True)
class Sample:
    """Rows `(n, D)` that starts are made from, the classes `(n,)` of some (-1: unlabelled), the mean of each class
    `(classes, D)` over all rows, and a function that clusters the sample from given centres, nothing pinned."""

    rows: NDArray[np.float32]
    pinned: NDArray[np.int64]
    means: NDArray[np.float32]
    cluster: Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.int64]]]


def plain(sample: Sample, k: int, generator: Generator) -> NDArray[np.float32]:
    """Greedy k-means++ over all rows; labels are not looked at."""
    return sample.rows[far_apart(sample.rows, None, k, generator, trials(k))]


def means(sample: Sample, k: int, generator: Generator) -> NDArray[np.float32]:
    """The class means, then greedy draws by squared distance among the unlabelled rows."""
    return _beyond_means(sample, k, generator, trials(k))


def published(sample: Sample, k: int, generator: Generator) -> NDArray[np.float32]:
    """As the code of the GCD paper: the class means, then one draw a centre. Others reach lower inertia."""
    return _beyond_means(sample, k, generator, 1)


def matched(sample: Sample, k: int, generator: Generator) -> NDArray[np.float32]:
    """k-means on all rows without labels; of its centres each class gets the one that holds most of its rows."""
    centres, found = sample.cluster(plain(sample, k, generator))
    labelled = sample.pinned >= 0
    shared = np.zeros((len(sample.means), k))
    np.add.at(shared, (sample.pinned[labelled], found[labelled]), 1)
    gaps = ((sample.means[:, None] - centres) ** 2).sum(-1)  # decides between clusters that share no row
    _, own = linear_sum_assignment(gaps / (gaps.max() + 1e-30) - shared)
    return np.concatenate([centres[own], np.delete(centres, own, axis=0)])


SEEDINGS: dict[str, Callable[[Sample, int, Generator], NDArray[np.float32]]] = {
    "plain": plain,
    "means": means,
    "matched": matched,
    "published": published,
}


def trials(k: int) -> int:
    """Candidates a draw, as in scikit-learn's greedy k-means++."""
    return 2 + int(np.log(k))


def far_apart(
    rows: NDArray[np.float32], centres: NDArray[np.float32] | None, count: int, generator: Generator, candidates: int
) -> NDArray[np.int64]:
    """Places `(count,)` of rows `(n, D)`, each drawn by its squared distance to the `centres` and those drawn before;
    of some `candidates` that one which leaves the smallest sum of distances. A draw u takes the first row at which
    the cumulative distance reaches u of the sum, as the published code does."""
    x = torch.from_numpy(rows)
    squares = torch.from_numpy(np.einsum("nd,nd->n", rows, rows))  # without a copy of all

    def distances(others: torch.Tensor) -> torch.Tensor:
        found = torch.addmm(squares, others, x.T, alpha=-2)  # (m, n), so that each is contiguous
        return found.add_((others * others).sum(1, keepdim=True)).clamp_(min=0)

    chosen: list[int] = []
    if centres is None:
        chosen.append(min(int(generator.random(1)[0] * len(rows)), len(rows) - 1))
        closest = distances(x[chosen])[0]
    else:
        closest = distances(torch.from_numpy(centres[:1]))[0]
        for start in range(1, len(centres), candidates):
            closest = torch.minimum(closest, distances(torch.from_numpy(centres[start : start + candidates])).amin(0))
    while len(chosen) < count:
        heights = np.cumsum(closest.numpy(), dtype=np.float64)
        drawn = np.searchsorted(heights, generator.random(candidates) * heights[-1])
        drawn = np.minimum(drawn, len(rows) - 1)
        left = torch.minimum(distances(x[drawn]), closest)
        best = int(left.sum(1, dtype=torch.float64).argmin())
        closest = left[best]
        chosen.append(int(drawn[best]))
    return np.array(chosen[:count], dtype=np.int64)


def _beyond_means(sample: Sample, k: int, generator: Generator, candidates: int) -> NDArray[np.float32]:
    free = np.flatnonzero(sample.pinned < 0)
    pool = sample.rows[free]
    drawn = far_apart(pool, sample.means, k - len(sample.means), generator, candidates)
    return np.concatenate([sample.means, pool[drawn]])
