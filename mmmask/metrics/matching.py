"""Clusters and classes: how often they meet, which belong together, and how well they agree."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mmmask.errors import UserError

NONE = -1  # the cluster of a class that has none


class Meetings(NamedTuple):
    """How many samples of each class are in each cluster. Ids are any integers: only those that occur have a place."""

    counts: np.ndarray  # (clusters, classes)
    clusters: np.ndarray  # ids
    classes: np.ndarray  # ids


class ClassRow(NamedTuple):
    """One class, in the table of all."""

    label: int
    old: bool
    samples: int
    cluster: int | None  # that was matched with it, if it has any of its samples
    found: int  # of its samples, in this cluster
    cluster_size: int


def check_ids(predictions: Tensor, labels: Tensor) -> None:
    """Refuse what is not one whole number each, for each sample."""
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise UserError(
            f"give one predicted cluster and one class for each sample, not {tuple(predictions.shape)} and "
            f"{tuple(labels.shape)}."
        )
    if predictions.is_floating_point() or labels.is_floating_point():
        raise UserError("predicted clusters and classes are whole numbers; take the argmax of logits.")


def meetings(predictions: Tensor | ArrayLike, labels: Tensor | ArrayLike) -> Meetings:
    """Of predicted clusters `(N,)` and true classes `(N,)`."""
    predictions, labels = torch.as_tensor(predictions), torch.as_tensor(labels)
    check_ids(predictions, labels)
    clusters, cluster = torch.unique(predictions, return_inverse=True)
    classes, label = torch.unique(labels, return_inverse=True)
    counts = torch.bincount(cluster * len(classes) + label, minlength=len(clusters) * len(classes))
    counts = counts.view(len(clusters), len(classes))
    return Meetings(*(x.cpu().numpy() for x in (counts, clusters, classes)))


def match(counts: np.ndarray) -> np.ndarray:
    """The cluster (its row) of each class, or -1: one to one, with as many samples as possible in agreement."""
    rows, columns = linear_sum_assignment(counts, maximize=True)
    matched = np.full(counts.shape[1], NONE)
    matched[columns] = rows
    return matched


def class_table(met: Meetings, old: Collection[int]) -> list[ClassRow]:
    """One row per class, by its id; `old` are the ids of classes that had labelled samples."""
    rows = []
    for column, (label, row) in enumerate(zip(met.classes, match(met.counts), strict=True)):
        found = 0 if row == NONE else int(met.counts[row, column])
        cluster = int(met.clusters[row]) if found else None  # matched because both were left over says nothing
        size = int(met.counts[row].sum()) if found else 0
        rows.append(ClassRow(int(label), int(label) in old, int(met.counts[:, column].sum()), cluster, found, size))
    return rows


def accuracies(table: list[ClassRow]) -> dict[str, float]:
    """All, old and new accuracy under the one matching, and `balanced_` ones: means over classes, not samples.

    NaN says that there is nothing to judge: no sample of an old, or of a new, class.
    """
    parts = {
        "all": table,
        "old": [row for row in table if row.old],
        "new": [row for row in table if not row.old],
    }
    by_sample = {name: _share(sum(r.found for r in rows), sum(r.samples for r in rows)) for name, rows in parts.items()}
    by_class = {
        f"balanced_{name}": _share(sum(r.found / r.samples for r in rows), len(rows)) for name, rows in parts.items()
    }
    return by_sample | by_class


def agreement(
    predictions: Tensor | ArrayLike, labels: Tensor | ArrayLike, old: Collection[int] = ()
) -> dict[str, float]:
    """The `accuracies` of predicted clusters `(N,)`, where true classes are `(N,)`."""
    return accuracies(class_table(meetings(predictions, labels), old))


def normalized_mutual_information(counts: np.ndarray) -> float:
    """2 I / (H_clusters + H_classes); 1 where both are one group. NaN without samples."""
    if not (total := counts.sum()):
        return float("nan")
    p = counts / total
    rows, columns = p.sum(1, keepdims=True), p.sum(0, keepdims=True)
    here = p > 0
    information = (p[here] * (np.log(p[here]) - np.log((rows * columns)[here]))).sum()
    entropies = -(rows * np.log(rows)).sum() - (columns * np.log(columns)).sum()
    return float(max(0.0, 2 * information / entropies)) if entropies > 0 else 1.0


def adjusted_rand(counts: np.ndarray) -> float:
    """Agreement on which pairs of samples are together, above chance (Hubert and Arabie 1985). NaN without samples."""
    total = int(counts.sum())
    if not total:
        return float("nan")
    pairs, rows, columns = (_pairs(x) for x in (counts, counts.sum(1), counts.sum(0)))
    chance, most = rows * columns / max(1, total * (total - 1) // 2), (rows + columns) / 2
    return 1.0 if pairs == rows == columns else float((pairs - chance) / (most - chance))


def _pairs(counts: np.ndarray) -> int:
    return sum(n * (n - 1) // 2 for n in counts[counts > 1].ravel().tolist())  # exact, of any size


def _share(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")
