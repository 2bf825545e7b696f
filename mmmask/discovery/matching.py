"""Which cluster is which class: counts of rows in common and the best one-to-one assignment of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment


def contingency(clusters: ArrayLike, classes: ArrayLike) -> NDArray[np.int64]:
    """Rows in common `(cluster, class)`; ids are numbered anew, for large ones would make a large table."""
    (found, row), (wanted, column) = (np.unique(ids, return_inverse=True) for ids in (clusters, classes))
    counts = np.bincount(row * len(wanted) + column, minlength=len(found) * len(wanted))
    return counts.reshape(len(found), len(wanted))


def match(table: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row that belongs to each column `(columns,)` of a table with most rows in common; -1 for none left."""
    rows, columns = linear_sum_assignment(table, maximize=True)
    matched = np.full(table.shape[1], -1)
    matched[columns] = rows
    return matched


@dataclass(frozen=True)
class Accuracy:
    """Shares of rows that lie in the cluster of their class; None where no such rows are."""

    all: float
    old: float | None
    new: float | None


def matched_accuracy(clusters: ArrayLike, classes: ArrayLike, old: ArrayLike = ()) -> Accuracy:
    """Accuracy (v2 of the GCD paper): one assignment over all rows, then by whether the true class is `old`."""
    table = contingency(clusters, classes)
    matched = match(table)
    hits = np.where(matched >= 0, table[matched, np.arange(table.shape[1])], 0)
    sizes, is_old = table.sum(0), np.isin(np.unique(classes), np.asarray(old))

    def share(which: NDArray[np.bool_]) -> float | None:
        return float(hits[which].sum() / sizes[which].sum()) if which.any() else None

    return Accuracy(float(hits.sum() / sizes.sum()), share(is_old), share(~is_old))


def adjusted_rand(one: ArrayLike, other: ArrayLike) -> float:
    """How far two partitions agree: 1 the same, 0 as by chance (Hubert and Arabie 1985)."""
    table = contingency(one, other)

    def pairs(counts: NDArray[np.int64]) -> float:
        return float((counts.astype(np.float64) * (counts - 1) / 2).sum())

    both, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = rows * columns / max(pairs(table.sum(keepdims=True)), 1)
    most = (rows + columns) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)
