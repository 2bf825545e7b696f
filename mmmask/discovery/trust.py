"""How much each part of samples is to count: what groups the labelled ones best when no label is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.kmeans import UNLABELLED, KMeans
from mmmask.discovery.space import Parts, present_mean, side_by_side
from mmmask.metrics.matching import adjusted_rand, agreement, meetings

SHARES = (0.15, 0.3, 0.5, 0.7)  # of a part that joins those that are trusted already
SEEDS = 5
MOST = 6000  # rows that are clustered


@dataclass(frozen=True)
class Trial:
    """Weights of parts, the accuracy on labelled samples of clusters of each seed, and how much these are alike (mean
    adjusted Rand index of two)."""

    weights: dict[str, float]
    accuracy: tuple[float, ...]
    stability: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracy))


def trusted(parts: Parts, labels: NDArray[np.int64], k: int, seed: int = 0) -> tuple[dict[str, float], list[Trial]]:
    """The weights of parts, adding up to 1, and all that was tried.

    The best part alone comes first; each other one joins with the share that makes clusters of all samples, found
    without labels, agree best with the labels `(N,)` there are (-1: none). A classifier would be the wrong judge:
    pictures that help it can still blur groups.
    """
    if len(parts) == 1:
        return dict.fromkeys(parts, 1.0), []
    rows = some_rows(labels, MOST, seed)
    few, given = {name: part[rows] for name, part in parts.items()}, labels[rows]
    tried: list[Trial] = []

    def trial(weights: dict[str, float]) -> Trial:
        tried.append(Trial(weights, *_judged(few, given, weights, min(k, len(rows)), seed)))
        return tried[-1]

    alone = sorted((trial(dict.fromkeys(parts, 0.0) | {name: 1.0}) for name in parts), key=lambda one: -one.mean)
    best = alone[0]
    for other in alone[1:]:
        name = max(other.weights, key=lambda part: other.weights[part])
        joined = [trial(_mixed(best.weights, name, share)) for share in SHARES]
        best = _best([best, *joined])
    return best.weights, tried


def _best(trials: list[Trial]) -> Trial:
    """Of those whose accuracies chance alone could tell apart, the one with the stablest clusters: labels speak of
    known classes alone, stability of new ones too."""
    noise = np.sqrt(2 * np.mean([np.var(one.accuracy, ddof=1) for one in trials]) / SEEDS)
    least = max(one.mean for one in trials) - noise
    return max((one for one in trials if one.mean >= least), key=lambda one: one.stability)


def _mixed(weights: dict[str, float], name: str, share: float) -> dict[str, float]:
    return {part: weight * (1 - share) + share * (part == name) for part, weight in weights.items()}


def some_rows(labels: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    """Rows to try things on, ascending: at most so many, at most half of them labelled."""
    generator = np.random.default_rng(seed)
    labelled, others = np.flatnonzero(labels != UNLABELLED), np.flatnonzero(labels == UNLABELLED)
    known = generator.permutation(labelled)[: most // 2]
    return np.sort(np.concatenate([known, generator.permutation(others)[: most - len(known)]]))


def _judged(
    parts: Parts, labels: NDArray[np.int64], weights: dict[str, float], k: int, seed: int
) -> tuple[tuple[float, ...], float]:
    used = {name: rows for name, rows in parts.items() if weights[name] > 0}
    rows = side_by_side(used, weights, {name: present_mean(part) for name, part in used.items()})
    labelled = labels != UNLABELLED
    k = min(k, len(np.unique(np.round(rows, 4), axis=0)))
    found = [KMeans(k, breathing=False, seed=seed + n).fit(rows).labels for n in range(SEEDS)]
    stability = np.mean([adjusted_rand(meetings(one, other).counts) for one, other in combinations(found, 2)])
    return tuple(agreement(one[labelled], labels[labelled])["all"] for one in found), float(stability)
