"""How many classes there are: curves over K with their noise, and a range, for no single number is reliable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from mmmask.discovery.kmeans import UNLABELLED, Clusters, KMeans, known_classes
from mmmask.discovery.ranks import Ranks
from mmmask.discovery.rows import Features, Rows
from mmmask.errors import UserError
from mmmask.metrics.matching import adjusted_rand, agreement, meetings

SILHOUETTE_ROWS = 2000
SHARE, MOST = 0.8, 100_000  # of the rows, in a sub-sample for stability, and never more
MERGED = 500  # numbers of merged clusters that are judged


@dataclass(frozen=True)
class Count:
    """What speaks for one K, of each seed: labelled accuracy, silhouette, inertia `(seeds,)`; and the stability, the
    agreement (ARI) of seeds with each other and with clusters of sub-samples `(pairs,)`."""

    k: int
    accuracy: NDArray[np.float64]
    silhouette: NDArray[np.float64]
    inertia: NDArray[np.float64]
    stability: NDArray[np.float64]


@dataclass
class ClassCount:
    """Clusterings of rows `(N, D)` for any K, without their labels `(N,)` (-1: unlabelled), judged by them.

    Each K is clustered once with each of `seeds` seeds, whatever is asked of it and however often.
    """

    features: Features
    labels: ArrayLike
    seeds: int = 3
    method: KMeans = field(default_factory=lambda: KMeans(1, breathing=False))
    known: dict[int, Count] = field(default_factory=dict, init=False)
    runs: dict[tuple[int, int], Clusters] = field(default_factory=dict, init=False)  # of a K and a seed

    def __post_init__(self) -> None:
        self.rows = Rows(self.features, self.method.spherical)
        self.classes, _ = known_classes(self.labels, len(self.rows), Ranks(alone=True))
        self.given = np.asarray(self.labels)
        self.draw = np.random.default_rng(self.method.seed)
        size = min(SILHOUETTE_ROWS, len(self.rows))
        self.looked_at = np.sort(self.draw.choice(len(self.rows), size, replace=False))
        self.part = np.sort(self.draw.choice(len(self.rows), min(round(SHARE * len(self.rows)), MOST), replace=False))

    def at(self, k: int) -> Count:
        """What speaks for this K."""
        if k not in self.known:
            runs = [self.run(k, seed) for seed in range(self.seeds)]
            sample = self.rows.take(self.looked_at)
            labels = [run.labels for run in runs]
            pairs = [(a, b) for n, a in enumerate(labels) for b in labels[n + 1 :]]
            few = min(k, len(self.part))  # near N, the sub-sample has fewer rows than clusters are asked for
            part = replace(self.method, k=few, seed=self.method.seed + self.seeds).fit(self.rows.take(self.part))
            pairs.append((labels[0][self.part], part.labels))
            self.known[k] = Count(
                k,
                np.array([self._accuracy(found) for found in labels]),
                np.array([silhouette(sample, found[self.looked_at]) for found in labels]),
                np.array([run.inertia for run in runs]),
                np.array([adjusted_rand(meetings(*pair).counts) for pair in pairs]),
            )
        return self.known[k]

    def run(self, k: int, seed: int) -> Clusters:
        """The clusters of one seed."""
        if (k, seed) not in self.runs:
            self.runs[k, seed] = self._cluster(k, seed)
        return self.runs[k, seed]

    def sweep(self, ks: Sequence[int]) -> Curve:
        """What speaks for each K of these, ascending, and for those between when the most clusters are merged."""
        if not len(ks) or min(ks) < len(self.classes):
            raise UserError(f"expected numbers of classes from {len(self.classes)} on, as many as are labelled: {ks}")
        counts = [self.at(k) for k in sorted(set(ks))]
        merged = self.merged(max(ks)) if max(ks) > len(self.classes) else {}
        return Curve(counts, {k: accuracy for k, accuracy in merged.items() if k >= min(ks)})

    def search(self, low: int, high: int, steps: int = 8) -> Curve:
        """A sweep of some numbers from `low` to `high`, in equal ratios, and of half as many about their best."""
        ks = sorted(set(np.geomspace(low, high, steps).round().astype(int).tolist()))
        place = ks.index(Curve([self.at(k) for k in ks]).best)
        near = ks[max(0, place - 1) : place + 2]
        return self.sweep([*ks, *np.linspace(near[0], near[-1], steps // 2).round().astype(int).tolist()])

    def brent(self, most: int) -> tuple[float, list[int]]:
        """The published estimate: Brent's search for the K of highest labelled accuracy up to `most`, a float as
        published, and the numbers of clusters it looked at, in order."""
        asked: list[int] = []

        def loss(k: float) -> float:
            asked.append(int(k))
            return -self._accuracy(self.run(int(k), 0).labels)

        bounds = (len(self.classes), most)
        return float(minimize_scalar(loss, bounds=bounds, method="bounded").x), asked

    def merged(self, most: int) -> dict[int, NDArray[np.float64]]:
        """Labelled accuracy `(seeds,)` of Ks below `most`, ascending, when that many clusters are merged one pair at a
        time, those first whose union has least inertia (Ward's rule)."""
        least = len(self.classes)
        if most <= least:
            raise UserError(f"{most} clusters cannot be merged into {least} classes or more: begin with more clusters")
        ks = np.unique(np.linspace(least, most - 1, MERGED).round().astype(int)).tolist()
        labelled = self.given != UNLABELLED
        accuracies: dict[int, list[float]] = {k: [] for k in ks}
        for seed in range(self.seeds):
            found = self.run(most, seed)
            labels = found.labels[labelled]
            for k, (kept, gone) in zip(range(most - 1, least - 1, -1), ward_merges(found), strict=False):
                labels[labels == gone] = kept
                if k in accuracies:
                    accuracies[k].append(agreement(labels, self.given[labelled])["all"])
        return {k: np.array(found) for k, found in accuracies.items()}

    def _cluster(self, k: int, seed: int) -> Clusters:
        return replace(self.method, k=k, seed=self.method.seed + seed).fit(self.features)

    def _accuracy(self, clusters: NDArray[np.int64]) -> float:
        labelled = self.given != UNLABELLED
        return agreement(clusters[labelled], self.given[labelled])["all"]


@dataclass(frozen=True)
class Curve:
    """What speaks for each K, ascending, and the labelled accuracy `(seeds,)` of each K that the most clusters were
    `merged` to; the labelled accuracy of `counts` decides, the others are for the eye."""

    counts: list[Count]
    merged: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def best(self) -> int:
        """The K of highest mean labelled accuracy."""
        return self.peaks["accuracy"]

    @property
    def peaks(self) -> dict[str, int]:
        """The K at which each criterion is highest, in the mean over seeds."""
        criteria = ("accuracy", "silhouette", "stability")
        found = {name: max(self.counts, key=lambda one: getattr(one, name).mean()).k for name in criteria}
        return found | ({"merged": max(self.merged, key=lambda k: self.merged[k].mean())} if self.merged else {})

    @property
    def range(self) -> tuple[int, int]:
        """The least and the largest K that are no worse than the best but for noise: the standard deviation over
        seeds, pooled over the curve, of a difference of two."""
        means = np.array([count.accuracy.mean() for count in self.counts])
        noise = np.sqrt(
            2 * np.mean([count.accuracy.var(ddof=min(1, len(count.accuracy) - 1)) for count in self.counts])
        )
        near = [count.k for count, mean in zip(self.counts, means, strict=True) if mean >= means.max() - noise]
        return min(near), max(near)


def silhouette(rows: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean over rows `(n, D)` of (b - a) / max(a, b): mean distance to the others of its cluster, and to the nearest
    other cluster; 0 for rows alone in their cluster (Rousseeuw 1987)."""
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(sizes) == 1:
        return 0.0
    x = torch.from_numpy(rows)
    member = torch.zeros(len(rows), len(sizes)).scatter_(1, torch.from_numpy(labels)[:, None], 1)
    totals = (torch.cdist(x, x) @ member).double().numpy()
    own = np.arange(len(rows)), labels
    inside = totals[own] / np.maximum(sizes[labels] - 1, 1)
    outside = totals / sizes
    outside[own] = np.inf
    nearest = outside.min(1)
    scores = (nearest - inside) / np.maximum(np.maximum(nearest, inside), 1e-12)
    return float(np.where(sizes[labels] > 1, scores, 0).mean())


def ward_merges(found: Clusters) -> list[tuple[int, int]]:
    """Pairs of clusters (kept, gone) whose union raises inertia least, until one is left; `kept` then is the union."""
    centres = found.centres.astype(np.float64)
    sizes = np.bincount(found.labels, minlength=len(centres)).astype(np.float64)
    squares = (centres**2).sum(1)
    costs = squares[:, None] + squares - 2 * centres @ centres.T
    costs *= sizes[:, None] * sizes / np.maximum(sizes[:, None] + sizes, 1)
    np.fill_diagonal(costs, np.inf)
    merges = []
    for _ in range(len(centres) - 1):
        kept, gone = divmod(int(costs.argmin()), len(centres))
        merges.append((kept, gone))
        both = sizes[kept] + sizes[gone]
        # Lance and Williams (1967): costs after a union, from those before
        new = (
            (sizes[kept] + sizes) * costs[kept] + (sizes[gone] + sizes) * costs[gone] - sizes * costs[kept, gone]
        ) / (both + sizes)
        sizes[kept] = both
        costs[gone], costs[:, gone] = np.inf, np.inf
        new[[kept, gone]] = np.inf
        new[~np.isfinite(costs[kept])] = np.inf
        costs[kept], costs[:, kept] = new, new
    return merges
